"""How far an entity is, before, while and after it is embedded."""

from __future__ import annotations

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.sync.status import EntityStatus, IndexStatus, LiveSet, status
from tests.support.world import SCHEMA, World


@pytest.fixture
def item(world: World) -> Entity:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"), (3, "Valve"), (4, None))
    return world.declare()


def of(world: World, item: Entity) -> EntityStatus:
    return status(world.postgres, SCHEMA, item)


def test_an_entity_that_was_never_run_has_nothing(world: World, item: Entity) -> None:
    nothing = EntityStatus("item", 0, 0, 0, None, 0, None, None, IndexStatus("none", None))
    assert of(world, item) == nothing


def test_texts_without_a_set_are_all_pending(world: World, item: Entity) -> None:
    world.texts(item)
    found = of(world, item)
    assert (found.rows, found.chunks, found.vectors, found.pending) == (3, 3, 0, 3)
    assert (found.coverage, found.live_set) == (0.0, None)
    assert found.oldest_pending_seconds is not None


def test_a_set_that_is_being_built_counts_but_is_not_live(world: World, item: Entity) -> None:
    world.texts(item)
    world.vectors(item, limit=1)
    found = of(world, item)
    assert (found.vectors, found.coverage, found.live_set) == (1, 33.33, None)


def test_a_whole_entity_is_covered_by_its_live_set(world: World, item: Entity) -> None:
    world.run(item)
    found = of(world, item)
    assert (found.rows, found.vectors, found.coverage, found.pending) == (3, 3, 100.0, 0)
    assert found.live_set == LiveSet(1, "fake/words", 64)
    assert found.index == IndexStatus("hnsw", 1.0)


def test_staging_need_not_be_there(world: World, item: Entity) -> None:
    world.run(item)
    world.sql("drop table staging.stg_item")
    assert of(world, item).coverage == 100.0


def test_coverage_is_100_percent_only_where_nothing_is_missing(world: World, item: Entity) -> None:
    # an index would take most of the time
    item = world.declare(index="none")
    world.run(item)
    for table, columns, last in (
        ("item_texts", "partition_key, fingerprint, text, text_hash, tokens", 30_000),
        ("item_vectors_1", "text, text_hash, embedding, version, run_id", 29_999),
    ):
        world.sql(
            f"insert into {SCHEMA}.{table} (id, chunk, {columns}) select n, 0, {columns}"
            f" from {SCHEMA}.{table}, generate_series(5, {last}) n where id = 1"
        )
    assert of(world, item).coverage == 99.99
    view = world.sql(f"select coverage_percent::float from {SCHEMA}.entity_coverage")
    assert view == [(99.99,)]
