"""Each check passes on a whole entity, and fails on what it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embeddings_pipeline.assets.checks import CHECKS
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.sync.checks import CheckResult, check
from tests.support.words import WordsEncoder, refuses
from tests.support.world import SCHEMA, World


@pytest.fixture
def item(world: World) -> Entity:
    """Three rows that all have their vectors."""
    world.table("id bigint, name text, changed timestamptz default now()")
    world.insert((1, "Pump"), (2, "Hose"), (3, "Valve"))
    item = world.declare(changed_at="changed", exclude=["changed"], partitions={"count": 2})
    world.run(item)
    return item


def check_result(world: World, item: Entity, name: str) -> CheckResult:
    return check(world.postgres, world.names_of(item))[name]


def test_a_whole_entity_passes_every_check(world: World, item: Entity) -> None:
    results = check(world.postgres, world.names_of(item))
    # golden queries are checked where they are declared
    assert results.keys() == CHECKS.keys() - {"retrieval"}
    assert {name for name, result in results.items() if not result.passed} == set()


def test_a_pending_row_is_an_error_of_coverage_in_its_partition(world: World, item: Entity) -> None:
    world.sql("update staging.stg_item set name = 'Tap' where id = 2")
    world.texts(item)
    found = check_result(world, item, "coverage")
    assert (found.passed, found.severity) == (False, "error")
    assert found.description == "2 of 3 rows have vectors (66.67 %); 1 chunks are pending"
    key = item.partitions.key_of("2")
    pending = {p["partition_key"]: p["pending"] for p in found.metadata["partitions"]}
    assert pending[key] == 1
    assert sum(pending.values()) == 1


def test_what_is_left_of_an_erased_row_is_an_error(world: World, item: Entity) -> None:
    world.sql(f"insert into {SCHEMA}.erasures (entity, id) values ('item', '2')")
    found = check_result(world, item, "erased")
    assert (found.passed, found.severity, found.metadata["remains"]) == (False, "error", 2)
    world.texts(item)
    assert check_result(world, item, "erased").passed


def test_a_quarantined_row_is_only_a_warning_of_coverage(world: World, item: Entity) -> None:
    world.use(WordsEncoder(before=refuses("Tap")))
    world.sql("update staging.stg_item set name = 'Tap' where id = 2")
    world.texts(item)
    world.vectors(item)
    found = check_result(world, item, "coverage")
    assert (found.passed, found.severity) == (False, "warn")
    assert found.metadata["quarantined"] == 1
    assert "1 are in quarantine" in found.description


def test_a_vector_whose_row_is_gone_is_an_orphan(world: World, item: Entity) -> None:
    world.sql(f"delete from {SCHEMA}.item_texts where id = 3")
    found = check_result(world, item, "orphans")
    assert (found.passed, found.severity, found.metadata) == (False, "error", {"orphans": 1})


def test_a_vector_of_another_length_is_an_error_where_the_model_normalises(
    world: World, item: Entity
) -> None:
    world.sql(f"update {SCHEMA}.item_vectors_1 set embedding = embedding + embedding where id = 1")
    found = check_result(world, item, "unit_norm")
    assert (found.passed, found.severity, found.metadata) == (False, "error", {"odd_vectors": 1})


def test_a_length_means_nothing_where_the_model_does_not_normalise(world: World) -> None:
    world.use(WordsEncoder(replace(world.encoder.identity, normalized=False)))
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    item = world.declare()
    world.run(item)
    world.sql(f"update {SCHEMA}.item_vectors_1 set embedding = embedding + embedding")
    assert check_result(world, item, "unit_norm").passed


def test_a_text_longer_than_the_model_reads_is_a_warning(world: World, item: Entity) -> None:
    world.sql("update staging.stg_item set name = repeat('pump ', 300) where id = 1")
    world.run(item)
    found = check_result(world, item, "truncated")
    assert (found.passed, found.severity, found.metadata) == (False, "warn", {"truncated": 1})
    assert "longer than the 256 tokens" in found.description


def test_a_row_without_text_is_a_warning(world: World, item: Entity) -> None:
    world.sql("update staging.stg_item set name = ' ' where id = 1")
    world.run(item)
    found = check_result(world, item, "without_text")
    assert (found.passed, found.severity) == (False, "warn")
    assert found.metadata == {"without_text": 1, "failed": 0}


def test_an_index_that_is_not_built_is_a_warning(world: World, item: Entity) -> None:
    world.sql(f"update {SCHEMA}.vector_sets set recall = null, index_settings = null")
    found = check_result(world, item, "recall")
    assert (found.passed, found.severity) == (False, "warn")


def test_an_index_that_finds_too_little_is_an_error(world: World, item: Entity) -> None:
    world.sql(f"update {SCHEMA}.vector_sets set recall = 0.5")
    found = check_result(world, item, "recall")
    assert (found.passed, found.severity) == (False, "error")
    assert "below 0.99" in found.description


@pytest.mark.parametrize(
    ("waited", "passed", "severity"),
    [("1 hour", True, "warn"), ("30 hours", False, "warn"), ("3 days", False, "error")],
)
def test_data_lag_is_counted_from_the_oldest_change_that_waits(
    world: World, item: Entity, waited: str, passed: bool, severity: str
) -> None:
    world.sql(
        f"update staging.stg_item set name = 'Tap', changed = now() - interval '{waited}'"
        " where id = 2"
    )
    world.texts(item)
    found = check_result(world, item, "data_lag")
    assert (found.passed, found.severity) == (passed, severity)
