"""Runs, readers and searches wait for each other's locks no longer than they must."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.errors import QueryCanceled

from embeddings_pipeline.errors import Busy
from embeddings_pipeline.store import views
from embeddings_pipeline.store.index import build
from tests.support.world import SCHEMA, World
from tests.sync.conftest import ROWS, Stored, wait_for

pytestmark = pytest.mark.usefixtures("small_windows")


def test_a_run_that_flips_nothing_waits_for_no_reader_of_the_view(
    world: World, undisturbed: Stored
) -> None:
    with closing(psycopg.connect(world.database.url)) as reader:
        reader.execute(f"select count(*) from {SCHEMA}.item_embeddings")
        world.sql("update staging.stg_item set name = 'changed' where id = 1")
        world.run(world.declare())
        # the reader's own transaction is as it was
        assert reader.info.transaction_status.name == "INTRANS"
    assert world.view()["1", 0] == "name: changed"


def test_a_search_waits_for_no_index_that_takes_the_place_of_another(
    world: World, undisturbed: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "LOCK_TIMEOUT", "2s")
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as reader,
    ):
        # a backup, say, that read the table and goes on with others
        reader.execute(f"select count(*) from {SCHEMA}.item_vectors_1")
        run = threads.submit(world.run, world.declare(index={"m": 24}))
        wait_for(
            world,
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
            " and query like 'drop index%')",
        )
        with closing(psycopg.connect(world.database.url, options="-c statement_timeout=2s")) as c:
            c.execute(f"select id from {SCHEMA}.item_vectors_1 order by embedding <=> embedding")
        # nor does the run wait for long
        run.result(30)
    world.run(world.declare(index={"m": 24}))
    assert indexes(world) == [("item_vectors_1_index", 24, True)]


def indexes(world: World) -> list[tuple[Any, ...]]:
    """Name, links and validity of each vector index."""
    return world.sql(
        "select c.relname, substring(reloptions::text from 'm=(\\d+)')::int, indisvalid"
        " from pg_index join pg_class c on c.oid = indexrelid join pg_am a on a.oid = c.relam"
        " where amname = 'hnsw' order by 1"
    )


def test_an_index_that_was_left_unfinished_is_dropped_even_if_it_is_wanted_no_more(
    world: World, undisturbed: Stored
) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as writer,
    ):
        # an index that is built beside writers waits for them
        writer.execute(f"update {SCHEMA}.item_vectors_1 set run_id = 'other' where id = 1")
        run = threads.submit(world.publish, world.declare(index={"m": 24}))
        wait_for(
            world,
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
            " and query like 'create index%')",
        )
        world.sql(
            "select pg_cancel_backend(pid) from pg_stat_activity where query like 'create index%'"
        )
        with pytest.raises(QueryCanceled):
            run.result(30)
    assert [name for name, _, valid in indexes(world) if not valid] == ["item_vectors_1_index_new"]

    world.run(world.declare())
    assert indexes(world) == [("item_vectors_1_index", 16, True)]


def test_a_set_that_someone_reads_is_dropped_by_a_later_run(
    world: World, undisturbed: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOCK_TIMEOUT", "1s")
    world.use(world.encoder.revised("r2"))
    item = world.declare(keep_sets=0)
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as reader,
    ):
        reader.execute(f"select count(*) from {SCHEMA}.item_vectors_1")
        threads.submit(world.run, item).result(30)
        assert [(s.number, s.state) for s in world.sets(item)] == [(1, "retired"), (2, "live")]
    world.run(item)
    assert [(s.number, s.state) for s in world.sets(item)] == [(2, "live")]


def test_a_change_of_filters_does_not_wait_for_ever_for_a_reader(
    world: World, undisturbed: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOCK_TIMEOUT", "1s")
    item = world.declare(filters=["name"])
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as reader,
    ):
        reader.execute(f"select count(*) from {SCHEMA}.item_embeddings")
        with pytest.raises(Busy, match="another transaction holds the same rows or tables"):
            threads.submit(world.run, item).result(30)
    world.run(item)
    assert world.sql(f"select id, name from {SCHEMA}.item_embeddings order by 1") == ROWS
