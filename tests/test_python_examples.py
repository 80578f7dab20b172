"""The examples of docs/python.md, one after the other, on a small table of products."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embeddings_pipeline
from tests.support.world import World

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
PRODUCTS = ["Garden hose, 20 m", "Watering can", "Chess board", "Running shoe"]


@pytest.fixture
def products(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dbt project that declares them, and their staging table."""
    world.table("product_id bigint, name text", "stg_product")
    world.insert(*enumerate(PRODUCTS), name="stg_product")
    node = {
        "resource_type": "model",
        "name": "stg_product",
        "alias": "stg_product",
        "schema": "staging",
        "package_name": "shop",
        "original_file_path": "models/staging/stg_product.yml",
        "config": {"meta": {"embedding": {"id": "product_id", "index": {"type": "none"}}}},
    }
    target = tmp_path / "project" / "target"
    target.mkdir(parents=True)
    manifest = {"nodes": {"model.shop.stg_product": node}, "sources": {}}
    (target / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("DBT_PROJECT_DIR", str(target.parent))
    monkeypatch.setenv("STAGING_DB_URL", world.database.url)
    monkeypatch.setenv("PGVECTOR_URL", world.database.url)


@pytest.mark.usefixtures("products")
def test_the_examples_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(example, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert "Garden hose, 20 m" in shown
    assert "there is no entity 'produkt' (entities: product)" in shown


def test_the_package_names_what_it_offers_without_importing_it() -> None:
    assert {"Entity", "Pipeline", "Searcher", "Settings"} <= {*dir(embeddings_pipeline)}
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = embeddings_pipeline.Pipelin
    for name in dir(embeddings_pipeline):
        assert getattr(embeddings_pipeline, name).__name__ == name
    code = (
        "import sys; from embeddings_pipeline import Pipeline, Entity, Settings, Searcher;"
        " print(sorted({'dagster', 'torch', 'dbt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
