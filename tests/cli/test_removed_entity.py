"""An entity whose declaration is gone: what the status says of it, and how it is removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.main import app
from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support.declared import use_manifest, write_manifest
from tests.support.world import SCHEMA, World


@pytest.fixture
def renamed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The entity `item`, run once, and its model declared under another name since."""
    use_manifest(monkeypatch, world, tmp_path)
    world.table("id bigint, name text")
    world.insert((0, "a red shoe"), (1, "a blue lamp"))
    declare(tmp_path)
    command("run", "item")
    declare(tmp_path, entity="thing")
    return world


def declare(folder: Path, **keys: str) -> None:
    write_manifest(folder / "manifest.json", template="{name}", model=DEFAULT_MODEL, **keys)


def command(*arguments: str) -> Result:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exception is None, result.exception
    return result


def test_the_status_names_an_entity_that_no_model_declares_until_it_is_empty(
    renamed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remark = "item: no model of this project declares it any more; its 2 rows stay as they are"
    assert remark in command("status").stderr

    declare(tmp_path, where="false")
    monkeypatch.setenv("EMBEDDING_CACHE_GRACE", "0")
    command("run", "item", "--allow-deletes")
    declare(tmp_path, entity="thing")

    assert "item" not in command("status").stderr
    left = "select count(*) from {0}.item_texts", "select count(*) from {0}.embedding_cache_1"
    assert [renamed.sql(query.format(SCHEMA)) for query in left] == [[(0,)], [(0,)]]


def test_one_whose_tables_are_broken_hides_no_other_entity(renamed: World, tmp_path: Path) -> None:
    command("run", "thing")
    renamed.sql(f"alter table {SCHEMA}.item_texts drop column text_hash cascade")
    shown = command("status")
    assert "item: no model of this project declares it any more, and its state" in shown.stderr
    assert "thing" in shown.stdout


def test_the_status_tells_that_an_id_of_another_type_is_refused(
    renamed: World, tmp_path: Path
) -> None:
    declare(tmp_path)
    renamed.sql("alter table staging.stg_item alter column id type text")
    result = CliRunner().invoke(app, ["status"])
    assert "its id was id (bigint) and is now id (text)" in str(result.exception)
    assert "wrong" in result.stdout


def test_another_name_of_the_same_rows_encodes_nothing(renamed: World) -> None:
    assert '"encoded": 0, "reused": 2' in command("run", "thing", "--json").stdout
