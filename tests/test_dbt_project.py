"""What can be said of the dbt project without a database."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parent.parent / "dbt_project"
MODELS = sorted((PROJECT / "models").rglob("*.sql"))
SEEDS = sorted((PROJECT / "seeds").glob("*.csv"))
STAGING = [path for path in MODELS if path.parent.name == "staging"]


def stem(path: Path) -> str:
    return path.stem


def declared(path: Path, kind: str) -> dict[str, Any]:
    """What the yml beside a model or a seed says of it."""
    (only,) = yaml.safe_load(path.with_suffix(".yml").read_text())[kind]
    assert only["name"] == path.stem
    return dict(only)


def documented(declaration: dict[str, Any]) -> list[str]:
    assert declaration["description"].strip()
    for column in declaration["columns"]:
        assert column["description"].strip(), column["name"]
    return [column["name"] for column in declaration["columns"]]


def selected(path: Path) -> list[str]:
    """Columns of the model's last CTE, which it selects whole."""
    last = re.findall(r"\n    select\n(.*?)\n    from ", path.read_text(), re.DOTALL)[-1]
    lines = [line.strip().rstrip(",") for line in last.splitlines()]
    return [re.split(r" as |\.", line)[-1] for line in lines if not line.startswith("--")]


@pytest.mark.parametrize("model", MODELS, ids=stem)
def test_every_column_of_a_model_is_documented_in_its_order(model: Path) -> None:
    assert documented(declared(model, "models")) == selected(model)


@pytest.mark.parametrize("seed", SEEDS, ids=stem)
def test_every_column_of_a_seed_is_documented_and_typed(seed: Path) -> None:
    declaration = declared(seed, "seeds")
    with seed.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert documented(declaration) == header
    assert list(declaration["config"]["column_types"]) == header


@pytest.mark.parametrize("model", STAGING, ids=stem)
def test_an_embedding_is_declared_over_columns_of_its_model(model: Path) -> None:
    declaration = declared(model, "models")
    embedding = declaration["config"]["meta"]["embedding"]
    used = [embedding["id"], *embedding.get("include", []), *embedding.get("exclude", [])]
    used += [*embedding["filters"], *(embedding[key] for key in ("deleted",) if key in embedding)]
    assert set(used) <= set(documented(declaration))


@pytest.mark.parametrize("model", STAGING, ids=stem)
def test_the_id_of_an_embedding_is_tested_for_uniqueness(model: Path) -> None:
    declaration = declared(model, "models")
    key = declaration["config"]["meta"]["embedding"]["id"]
    (column,) = [column for column in declaration["columns"] if column["name"] == key]
    assert {"not_null", "unique"} <= set(column["data_tests"])


@pytest.mark.parametrize("seed", SEEDS, ids=stem)
def test_the_origin_of_a_seed_is_told_with_its_number_of_rows(seed: Path) -> None:
    with seed.open(newline="", encoding="utf-8") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    told: dict[str, str] = {}
    for line in (PROJECT / "seeds" / "SOURCES.md").read_text().splitlines():
        if line.startswith("| raw_"):
            names, counts = (cell.strip().split(", ") for cell in line.split("|")[1:3])
            told.update(zip(names, counts, strict=True))
    assert told[seed.stem] == str(rows)


def test_the_seeds_stay_small() -> None:
    assert sum(path.stat().st_size for path in (PROJECT / "seeds").iterdir()) < 700_000
