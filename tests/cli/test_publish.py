"""`publish --compare`: two sets beside one another, before one takes the place of the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support.commands import command
from tests.support.declared import use_manifest, write_manifest
from tests.support.world import World

GOLDEN = "query,id\nred shoe,0\nblue lamp,1\n"


@pytest.fixture
def two_sets(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A live set of the packaged model, and one in another storage that waits."""
    keys: dict[str, Any] = {
        "template": "{name}",
        "publish": "manual",
        "model": DEFAULT_MODEL,
        "retrieval": {"queries": "golden.csv", "ndcg_at_10": 0.5},
    }
    use_manifest(monkeypatch, world, tmp_path)
    (tmp_path / "golden.csv").write_text(GOLDEN)
    world.table("id bigint, name text")
    world.insert((0, "a red shoe"), (1, "a blue lamp"), (2, "a garden hose"))
    write_manifest(tmp_path / "manifest.json", **keys)
    assert command("run", "item", "--no-dbt").exception is None
    assert command("publish", "item").exception is None
    write_manifest(tmp_path / "manifest.json", **keys, storage="halfvec")
    assert command("run", "item", "--no-dbt").exception is None
    return world


def test_sets_are_compared_by_golden_queries_and_without_their_file_by_neighbours_alone(
    two_sets: World, tmp_path: Path
) -> None:
    compared = json.loads(command("publish", "item", "--compare", "--json").stdout)
    assert [quality["ndcg_at_10"] for quality in compared["quality"]] == [1, 1]
    (tmp_path / "golden.csv").unlink()
    result = command("publish", "item", "--compare", "--json")
    assert result.exception is None
    assert "compared without golden queries: there is no file 'golden.csv'" in result.stderr
    assert json.loads(result.stdout)["quality"] == []


def test_a_run_and_the_status_say_that_a_set_waits_to_be_published(two_sets: World) -> None:
    waits = "set 2: publish is manual: run `embeddings-pipeline publish item`"
    assert waits in command("run", "item", "--no-dbt").stderr
    assert f"item: {waits}" in command("status").stdout
    assert json.loads(command("status", "--json").stdout)["entities"][0]["waiting"] == [waits]
    command("publish", "item")
    assert waits not in command("status").stdout


def test_a_rollback_says_that_runs_publish_nothing_until_told_to(two_sets: World) -> None:
    command("publish", "item")
    held = "no run publishes another set until `embeddings-pipeline publish item`"
    assert held in command("rollback", "item").stdout
    run = command("run", "item", "--no-dbt")
    assert "set 2: held since a rollback: run `embeddings-pipeline publish item`" in run.stderr
