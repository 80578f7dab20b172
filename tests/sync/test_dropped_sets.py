"""Another run publishes a set and drops the former one while something reads it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.service.state import State
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import views
from embeddings_pipeline.store.search import snapshots
from embeddings_pipeline.store.tables import SetDropped
from embeddings_pipeline.store.vectors import sets
from embeddings_pipeline.store.vectors.cache import EmbeddingCache
from embeddings_pipeline.sync import checks, index, run_metrics, status
from embeddings_pipeline.sync.explain import explain
from tests.support.databases import Templates
from tests.support.waiting import until
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

Read = Callable[[World, Entity], object]

WAITERS = (
    "select count(*) from pg_locks where not granted and database ="
    " (select oid from pg_database where datname = current_database())"
)


@pytest.fixture
def item(world: World, templates: Templates) -> Entity:
    """Three rows in two sets: the first is live, the second is built."""
    templates.restore(world, make_two_sets)
    return with_other_model(world)


def make_two_sets(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"), (3, "Valve"))
    world.run(world.declare())
    item = with_other_model(world)
    world.texts(item)
    world.vectors(item)
    index.sync_index(world.postgres, world.names_of(item))


def with_other_model(world: World) -> Entity:
    """The entity under a second model."""
    world.use(WordsEncoder(replace(WORDS, model="fake/other")))
    return world.declare(model="fake/other")


def read_while_dropped(world: World, item: Entity, read: Read) -> object:
    """What `read` returns, where the second set takes the place of the first one, which is dropped,
    after it read which sets there are and before it reads the first one's tables."""
    first, second = world.sets(item)
    with (
        closing(psycopg.connect(world.database.url)) as connection,
        ThreadPoolExecutor(1) as threads,
    ):
        tables = world.tables(connection, item)
        sets.set_state(tables, first.number, "retired")
        sets.set_state(tables, second.number, "live")
        views.PublishedView(connection, SCHEMA, "item").replace()
        views.replace_coverage(connection, SCHEMA)
        sets.drop_set(tables, first)
        done = threads.submit(read, world, item)
        until(lambda: done.done() or world.sql(WAITERS) != [(0,)])
        assert not done.done(), done.result()
        connection.commit()
        return done.result(60)


def state_of(world: World) -> State:
    settings = Settings(
        _env_file=None, staging_db_url=world.database.url, pgvector_url=world.database.url
    )
    return State(Pipeline(settings), lambda: world.postgres)


def pending(world: World, item: Entity) -> int:
    figures = run_metrics.read_figures(world.postgres, SCHEMA, item, "run")
    assert figures is not None
    return figures.pending


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (lambda w, item: status.status(w.postgres, SCHEMA, item).row()["live_set"], 2),
        (lambda w, item: sum(p.covered for p in status.coverage(w.postgres, w.names_of(item))), 3),
        (
            lambda w, item: {
                name
                for name, result in checks.check(w.postgres, w.names_of(item)).items()
                if not result.passed
            },
            set(),
        ),
        (pending, 0),
        (lambda w, item: state_of(w).stats().entities[0].model, "fake/other"),
        (lambda w, item: [e.model for e in state_of(w).entities().entities], ["fake/other"]),
        (
            lambda w, item: [
                s.set_number
                for s in explain(w.postgres, w.postgres, w.names_of(item), w.encoders, "1")
                .chunks[0]
                .sets
            ],
            [2],
        ),
        # it needs no index any more
        (
            lambda w, item: [
                r.vector_set.number for r in index.sync_index(w.postgres, w.names_of(item))
            ],
            [2],
        ),
    ],
    ids=["status", "coverage", "checks", "figures", "stats", "entities", "explain", "index"],
)
def test_what_reads_a_set_that_another_run_drops_reads_the_one_in_its_place(
    world: World, item: Entity, read: Read, wanted: object
) -> None:
    assert read_while_dropped(world, item, read) == wanted


@pytest.mark.parametrize(
    "read",
    [
        lambda w, item: w.plan(item),
        lambda w, item: w.vectors(item),
        lambda w, item: export(w),
    ],
    ids=["plan", "run", "export"],
)
def test_what_cannot_begin_again_says_that_another_run_dropped_the_set(
    world: World, item: Entity, read: Read
) -> None:
    with pytest.raises(SetDropped, match="set 1 of entity 'item' is gone: another run dropped it"):
        read_while_dropped(world, item, read)


def export(world: World) -> None:
    with (
        world.postgres.connection() as connection,
        snapshots.one_moment(connection, SCHEMA, "item") as rows,
    ):
        rows.count()


def test_a_cache_is_filled_from_the_sets_that_are_left(world: World, item: Entity) -> None:
    first = world.sets(item)[0].stored_identity
    world.sql(f"truncate {SCHEMA}.{first.cache_table}")

    def seed(world: World, item: Entity) -> int:
        with world.postgres.connection() as connection:
            return EmbeddingCache(world.tables(connection, item), first).seed([bytes(16)])

    assert read_while_dropped(world, item, seed) == 0
