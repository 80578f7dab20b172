"""When an index is built, how a killed build is finished, and how recall is measured."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store.embedded import postmaster
from embeddings_pipeline.store.index import build, progress, recall
from embeddings_pipeline.sync import index
from embeddings_pipeline.sync.checks import CheckResult, check
from embeddings_pipeline.sync.index import IndexResult, sync_index
from embeddings_pipeline.sync.progress import Progress
from tests.support.databases import Templates
from tests.support.world import SCHEMA, World

ROWS = [(n, f"thing {n} of {n % 7}", f"kind {n % 9}", n % 90 == 0) for n in range(300)]


@pytest.fixture
def item(world: World, templates: Templates) -> Entity:
    """Three hundred rows with an index."""
    templates.restore(world, index_rows)
    return world.declare(include=["name"])


def index_rows(world: World) -> None:
    world.table("id bigint, name text, kind text, rare boolean")
    world.insert(*ROWS)
    world.run(world.declare(include=["name"]))


def only(world: World, item: Entity, **options: Any) -> IndexResult:
    (result,) = sync_index(world.postgres, world.names_of(item), **options)
    return result


def oid(world: World) -> int:
    """The oid of the index; a rebuilt index has another one."""
    ((number,),) = world.sql(f"select '{SCHEMA}.item_vectors_1_index'::regclass::oid::int")
    return int(number)


def change(world: World, item: Entity, rows: int) -> None:
    world.sql("update staging.stg_item set name = name || ' new' where id < %s", rows)
    world.texts(item)
    world.vectors(item)


def test_an_index_is_kept_while_few_rows_change(world: World, item: Entity) -> None:
    built = oid(world)
    change(world, item, 60)
    result = only(world, item)
    assert (result.action, result.why, oid(world)) == ("kept", "", built)


def test_an_index_is_rebuilt_when_more_than_its_share_of_rows_changed(
    world: World, item: Entity
) -> None:
    built = oid(world)
    change(world, item, 61)
    result = only(world, item)
    assert (result.action, result.why) == ("built", "20% of the rows changed")
    assert oid(world) != built
    assert only(world, item).action == "kept"


def test_rows_that_are_gone_count_as_changes_of_an_index(world: World, item: Entity) -> None:
    world.sql("delete from staging.stg_item where id < 100")
    world.texts(item)
    assert only(world, item).why == "33% of the rows changed"


def test_the_share_of_rows_is_declared(world: World, item: Entity) -> None:
    change(world, item, 200)
    assert only(world, world.declare(include=["name"], index={"rebuild": 0.9})).action == "kept"


def test_an_index_that_somebody_dropped_is_built_again(world: World, item: Entity) -> None:
    world.sql(f"drop index {SCHEMA}.item_vectors_1_index")
    result = only(world, item)
    assert (result.action, result.why) == ("built", "it is gone")
    assert result.size_bytes


def test_an_index_is_rebuilt_on_request(world: World, item: Entity) -> None:
    built = oid(world)
    assert only(world, item, rebuild=True).why == "a rebuild was requested"
    assert oid(world) != built


def test_an_index_whose_recall_fell_is_built_with_more_links(world: World, item: Entity) -> None:
    world.sql(f"update {SCHEMA}.vector_sets set recall = 0.5")
    result = only(world, item)
    assert (result.action, result.why) == ("built", "recall@10 is 0.500")
    assert result.vector_set.index_settings is not None
    assert result.vector_set.index_settings["m"] == 32
    assert only(world, item).action == "kept"


def test_nothing_is_built_while_rows_are_pending(world: World, item: Entity) -> None:
    built = oid(world)
    world.insert((1000, "pump", "kind 0", False))
    world.texts(item)
    assert only(world, item, rebuild=True).action == "waiting"
    assert oid(world) == built


def test_a_build_that_was_not_measured_is_finished(world: World, item: Entity) -> None:
    world.sql(f"update {SCHEMA}.vector_sets set recall = null, recall_check = null")
    result = only(world, item)
    assert result.action == "built"
    assert result.vector_set.recall is not None
    assert result.vector_set.recall >= item.index.recall
    assert result.why == "the last build was stopped before it was measured"
    assert only(world, item).action == "kept"


def test_a_build_whose_backend_is_killed_leaves_the_old_index_and_then_ends_well(
    world: World, item: Entity, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(index, "time", SimpleNamespace(monotonic=lambda: clock.now))
    built = oid(world)
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as writer,
    ):
        # an index that is built beside writers waits for them
        writer.execute(f"update {SCHEMA}.item_vectors_1 set run_id = 'other' where id = 1")
        run = threads.submit(only, world, item, rebuild=True)
        world.sql("select pg_terminate_backend(%s)", waiting(world, "create index concurrently%"))
        clock.now = 100.0
        # the work is done again over another connection, which first removes what was left
        waiting(world, "drop index concurrently%")
        assert oid(world) == built
        writer.rollback()
        result = run.result(60)
    # the time counts from the first try
    assert (result.action, result.seconds) == ("built", 100.0)
    assert oid(world) != built
    assert world.sql(
        "select c.relname, indisvalid from pg_index join pg_class c on c.oid = indexrelid"
        " join pg_am a on a.oid = c.relam where amname = 'hnsw'"
    ) == [("item_vectors_1_index", True)]


def waiting(world: World, statement: str) -> int:
    """The backend with a statement that waits for the writer, once it does."""
    waits = "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like %s"
    assert postmaster.wait(lambda: bool(world.sql(waits, statement)), 30)
    ((pid,),) = world.sql(waits, statement)
    return int(pid)


def test_a_build_tells_how_far_it_is(
    world: World, item: Entity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    told: list[Progress] = []
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg.connect(world.database.url)) as writer,
    ):
        writer.execute(f"update {SCHEMA}.item_vectors_1 set run_id = 'other' where id = 1")
        run = threads.submit(only, world, item, rebuild=True, report=told.append)
        assert postmaster.wait(lambda: bool(told), 30)
        writer.rollback()
        run.result(60)
    assert told[0].entity == "item, index of set 1, waiting for writers before build"
    assert (told[0].done, told[0].pending, told[0].unit) == (0, 1, "sessions")


def test_memory_for_a_build_is_what_its_graph_needs(world: World, item: Entity) -> None:
    with world.postgres.connection() as connection:
        result = only(world, item)
        build._use_memory(connection, 1 << 40)
        most, shared = connection.execute(
            "select pg_size_bytes(current_setting('maintenance_work_mem')),"
            " pg_size_bytes(current_setting('shared_buffers'))"
        ).fetchone() or (0, 0)
        build._use_workers(connection, result.vector_set)
        (workers,) = connection.execute("show max_parallel_maintenance_workers").fetchone() or ()
    # as much as the server has, and no less than it is set to
    assert most == 2 * shared
    assert int(workers) >= 2


def levels(world: World) -> list[dict[str, Any]]:
    ((recall_check,),) = world.sql(f"select recall_check from {SCHEMA}.vector_sets")
    found: list[dict[str, Any]] = recall_check["levels"]
    return found


def test_an_index_is_measured_without_a_filter_and_with_two(world: World, item: Entity) -> None:
    assert [(level["share"], level["column"]) for level in levels(world)] == [
        (1.0, None),
        (0.1, None),
        (0.01, None),
    ]
    for level in levels(world):
        assert level["recall_at_10"] >= 0.99
        assert 0 < level["p50_ms"] <= level["p95_ms"]
        assert level["queries"] == 100


def test_an_index_is_measured_with_queries_that_lie_between_the_rows(
    world: World, item: Entity
) -> None:
    (shown,) = world.sets(item)
    with world.postgres.connection() as connection:
        tables = world.tables(connection, item)
        everything = recall.sampled_filters(tables, shown)[0]
        found = recall.search(tables, shown, everything, {"enable_indexscan": "off"})
    # a stored vector would find itself
    assert np.median([query.distances[0] for query in found]) > 0.01


def test_values_of_filter_columns_are_what_an_index_is_measured_with(world: World) -> None:
    world.table("id bigint, name text, kind text, rare boolean")
    world.insert(*ROWS)
    world.run(world.declare(include=["name"], filters=["kind", "rare"]))
    _, tenth, hundredth = levels(world)
    assert (tenth["column"], hundredth["column"]) == ("kind", "rare")
    assert tenth["share"] == pytest.approx(1 / 9, abs=0.01)
    assert hundredth["share"] == pytest.approx(4 / 300)


def test_the_least_effort_that_reaches_the_recall_is_kept_for_searches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n} of {n % 7}") for n in range(500)])
    # with many lists, one list has few of the neighbours
    world.run(world.declare(index={"type": "ivfflat", "lists": 50, "recall": 0.9}))
    ((effort, recall),) = world.sql(f"select ef_search, recall from {SCHEMA}.vector_sets")
    assert recall >= 0.9
    assert 1 < effort <= 50


def test_a_search_of_few_rows_reads_all_of_them(world: World, item: Entity) -> None:
    assert levels(world)[0]["effort"] == 1000 >= len(ROWS)


@pytest.mark.parametrize(
    ("share", "effort"), [(1.0, 40), (0.6, 40), (0.2, 640), (0.05, 640), (0.02, None), (0.0, None)]
)
def test_a_search_has_the_effort_of_the_share_that_its_filters_leave(
    world: World, item: Entity, share: float, effort: int | None
) -> None:
    levels = [(1.0, 40), (0.1, 640), (0.01, None)]
    (found,) = world.sets(item)
    measured = replace(
        found,
        ef_search=40,
        recall_check={"levels": [{"share": of, "effort": least} for of, least in levels]},
    )
    assert measured.effort(share) == effort


def test_one_filter_that_needs_much_effort_slows_no_other_search(world: World) -> None:
    world.table("id bigint, name text, kind text")
    world.insert(*[(n, f"thing {n} of {n % 7}", "odd" if n % 9 else "even") for n in range(500)])
    kinds = world.declare(
        include=["name"],
        filters=["kind"],
        index={"type": "ivfflat", "lists": 50, "recall": 0.9},
    )
    world.run(kinds)
    everything, tenth, _ = levels(world)
    ((effort,),) = world.sql(f"select ef_search from {SCHEMA}.vector_sets")
    assert effort == everything["effort"]
    assert (tenth["column"], tenth["recall_at_10"] >= 0.9) == ("kind", True)


def recall_check(world: World, item: Entity) -> CheckResult:
    return check(world.postgres, world.names_of(item))["recall"]


def measured_at(world: World) -> str:
    ((at,),) = world.sql(f"select recall_check->>'measured_at' from {SCHEMA}.vector_sets")
    return str(at)


def test_the_check_measures_again_after_changes_and_after_a_day(world: World, item: Entity) -> None:
    first = measured_at(world)
    assert recall_check(world, item).passed
    assert measured_at(world) == first
    change(world, item, 40)
    assert recall_check(world, item).passed
    second = measured_at(world)
    assert second > first
    old = "jsonb_set(recall_check, '{measured_at}', to_jsonb(now() - interval '25 hours'))"
    world.sql(f"update {SCHEMA}.vector_sets set recall_check = {old}, ef_search = 1")
    assert recall_check(world, item).metadata["levels"][0]["effort"] > 1
    assert measured_at(world) > second


def test_the_check_shows_each_measurement_in_a_table(world: World, item: Entity) -> None:
    table = recall_check(world, item).metadata["levels"]
    assert [(row["share"], row["column"]) for row in table] == [
        ("100.0%", "no filter"),
        ("10.0%", "a hash of the id"),
        ("1.0%", "a hash of the id"),
    ]
    assert len({tuple(row) for row in table}) == 1


def test_a_filter_that_makes_the_index_find_too_little_is_a_warning(
    world: World, item: Entity
) -> None:
    low = '[{"share": 1, "column": null, "recall_at_10": 1}, {"share": 0.1, "column": "kind",'
    low += ' "recall_at_10": 0.5}]'
    world.sql(
        f"update {SCHEMA}.vector_sets"
        " set recall_check = jsonb_set(recall_check, '{levels}', %s::jsonb)",
        low,
    )
    found = recall_check(world, item)
    assert (found.passed, found.severity) == (False, "warn")
    assert "0.500 with filter 'kind', below" in found.description
