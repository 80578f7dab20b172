"""Each exchange with the database fails in its turn, and the end is always the same one.

The scenario is short but goes through all that a run does: windows, chunks, equal texts, a row
without text and one that no model takes, changed and deleted rows, another definition, a new model
beside the live one, a flip, a rollback, an erasure and a change of storage. In its n-th life the
n-th exchange of each step goes wrong. After each step all that is stored must be what it is in a
life in which nothing goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.errors import DeadlockDetected, DiskFull, InternalError_, QueryCanceled
from psycopg.sql import SQL, Identifier, Literal

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store.schema import create_control_tables
from embeddings_pipeline.sync.erase import erase
from embeddings_pipeline.sync.index import sync_index
from embeddings_pipeline.sync.publish import publish, rollback
from embeddings_pipeline.sync.sets import sync_sets
from embeddings_pipeline.sync.texts import sync_texts
from embeddings_pipeline.sync.vectors import Request
from tests import faults
from tests.faults import Died, Exchanges, Spoil
from tests.words import WORDS, WordsEncoder
from tests.world import SCHEMA, World

LONG = " ".join(f"Sentence {n} of it." for n in range(9))
ROWS = (
    *((1, "pump", None, 5), (2, "hose", None, 5), (3, "pump", None, 5), (4, "long", LONG, 5)),
    *((5, None, None, 5), (6, "poison", None, 5), (7, "valve", None, 5)),
)
CHANGES = """
    update staging.stg_item set name = 'tap' where id = 1;
    update staging.stg_item set stock = 9 where id = 2;
    update staging.stg_item set body = 'short now' where id = 4;
    delete from staging.stg_item where id = 7;
    insert into staging.stg_item values (8, 'hose', null, 5)
"""
# none of these decide whether a row is right
UNCOMPARED = (
    *("run_id", "reused_from", "attempts", "serialised_at", "embedded_at", "created_at"),
    *("published_at", "first_seen", "last_seen", "erased_at", "last_pass_at", "counted_at"),
)
ABOUT_TABLES = (
    f"select 'views', definition from pg_views where schemaname = '{SCHEMA}'",
    f"select 'published', rank() over (order by published_at) || ': ' || number"
    f" from {SCHEMA}.vector_sets where published_at is not null",
    "select 'indexes', pg_get_indexdef(indexrelid) || indisvalid from pg_index join pg_class"
    f" on oid = indrelid where relnamespace = '{SCHEMA}'::regnamespace",
)
# what a server may answer to any statement
REFUSALS = (DiskFull, InternalError_, QueryCanceled)

Act = Callable[[], object]


@dataclass(frozen=True)
class Step:
    """A call, and what is prepared for it: a declaration, and changes in staging."""

    name: str
    call: Callable[[World, Entity], Act]
    declaration: dict[str, Any]
    changes: str = ""

    def prepare(self, world: World) -> Act:
        if self.changes:
            world.sql(self.changes)
        return self.again(world)

    def again(self, world: World) -> Act:
        """The call alone."""
        return self.call(world, world.declare(**self.declaration))


@dataclass(frozen=True)
class Undisturbed:
    """A step in which nothing went wrong: what it left, how many exchanges it took, and after
    which of them the database was another than before."""

    left: dict[str, list[str]]
    exchanges: int
    durable: list[int]


def pass_over(world: World, entity: Entity) -> Act:
    on = world.on(entity)
    encoders = world.encoders
    return lambda: sync_texts(
        world.postgres, world.postgres, on, "run", encoders.images, encoders.cache.evict
    )


def encode(world: World, entity: Entity) -> Act:
    on = world.on(entity)
    return lambda: sync_sets(world.postgres, on, world.encoders, Request("run"))


def index(world: World, entity: Entity) -> Act:
    on = world.on(entity)
    return lambda: sync_index(world.postgres, on)


def flip(world: World, entity: Entity) -> Act:
    on = world.on(entity)
    return lambda: publish(world.postgres, on)


def flip_by_hand(world: World, entity: Entity) -> Act:
    on = world.on(entity)
    return lambda: publish(world.postgres, on, explicit=True)


def go_back(world: World, entity: Entity) -> Act:
    on = world.on(entity)

    # a person looks at what is live before asking for it, above all a second time
    ((live,),) = world.sql(f"select number from {SCHEMA}.vector_sets where state = 'live'")
    return lambda: live == 2 and rollback(world.postgres, on)


def erase_two(world: World, entity: Entity) -> Act:
    on = world.on(entity)
    return lambda: erase(world.postgres, on, ["2", "6"], world.encoders.cache.evict)


FIRST = {
    **{"include": ["name", "body"], "filters": ["stock"], "chunk": {"tokens": 16}},
    "partitions": {"count": 2},
}
OTHER = {**FIRST, "filters": [], "partitions": {"count": 3}, "model": "fake/other"}
HALF = {**OTHER, "storage": "halfvec"}
SCENARIO = (
    Step("texts", pass_over, FIRST),
    Step("vectors", encode, FIRST),
    Step("index", index, FIRST),
    Step("publish", flip, FIRST),
    Step("texts of changed rows and another definition", pass_over, OTHER, CHANGES),
    Step("vectors of two models", encode, OTHER),
    Step("two indexes", index, OTHER),
    Step("flip", flip, OTHER),
    Step("rollback", go_back, OTHER),
    Step("vectors after the rollback", encode, OTHER),
    Step("publish by hand", flip_by_hand, OTHER),
    Step("erase", erase_two, OTHER),
    Step("texts after erasing", pass_over, OTHER),
    Step("vectors in another storage", encode, HALF),
    Step("its index", index, HALF),
    Step("its flip", flip, HALF),
)


def begin(world: World) -> None:
    """Back to a database in which nothing has run yet."""
    world.sql(f"drop schema if exists {SCHEMA}, staging cascade")
    world.sql("create schema staging")
    with world.postgres.connection() as connection:
        create_control_tables(connection, SCHEMA)
    world.table("id bigint, name text, body text, stock int")
    world.insert(*ROWS)


def refuse_poison(batch: Sequence[str]) -> None:
    if any("poison" in text for text in batch):
        raise ValueError("no model takes this")


def everything(world: World) -> dict[str, list[str]]:
    """All that is stored, apart from times and the ledger of runs."""
    with world.postgres.connection() as connection:
        tables = connection.execute(
            "select tablename from pg_tables where schemaname = %s and tablename <> 'run_ledger'",
            (SCHEMA,),
        )
        rows = [
            SQL("select {}, (to_jsonb(t) - {}::text[])::text from {} t").format(
                Literal(table), Literal(list(UNCOMPARED)), Identifier(SCHEMA, table)
            )
            for (table,) in tables
        ]
        found: dict[str, list[str]] = {}
        for name, row in connection.execute(
            SQL(" union all ").join([*rows, *(SQL(query) for query in ABOUT_TABLES)])
            + SQL(" order by 1, 2")
        ):
            found.setdefault(name, []).append(row)
    return found


def finished_transactions(connection: Connection[Any]) -> int:
    """How many transactions that wrote something have ended in this server."""
    row = connection.execute(
        "select pg_snapshot_xmax(s)::text::bigint - (select count(*) from pg_snapshot_xip(s))"
        " from pg_current_snapshot() s"
    ).fetchone()
    assert row
    return int(row[0])


@pytest.fixture
def models(exchanges: Exchanges, world: World) -> World:
    """The world, in which two models refuse one of the rows."""
    for name in ("fake/words", "fake/other"):
        world.encoders.add(WordsEncoder(replace(WORDS, model=name), refuse_poison))
    return world


@pytest.fixture
def undisturbed(exchanges: Exchanges, models: World) -> list[Undisturbed]:
    begin(models)
    with closing(psycopg.connect(models.database.url, autocommit=True)) as other:
        return [once(step.prepare(models), models, exchanges, other) for step in SCENARIO]


def once(act: Act, world: World, exchanges: Exchanges, other: Connection[Any]) -> Undisturbed:
    finished = [finished_transactions(other)]

    def look(_: Exchanges, connection: Connection[Any], go_on: Act) -> object:
        answer = go_on()
        finished.append(finished_transactions(other))
        return answer

    with exchanges.armed(look):
        act()
    durable = [n for n in range(1, len(finished)) if finished[n] != finished[n - 1]]
    return Undisturbed(everything(world), exchanges.seen, durable)


@dataclass(frozen=True)
class Point:
    """Which exchange of a step is spoilt, and how; `ends` is what may end the step then."""

    at: int
    spoil: Spoil
    ends: tuple[type[BaseException], ...]


def live(
    world: World, exchanges: Exchanges, undisturbed: Sequence[Undisturbed], plans: list[list[Point]]
) -> None:
    """Live the scenario until all points of its steps have been spoilt, one of a step in a life.

    A step that ends early is done again without a fault, as a scheduler or a person would do.
    """
    print(f"{sum(map(len, plans))} points")  # noqa: T201 - shown by `pytest -rP`
    while any(plans):
        begin(world)
        last = max(number for number, points in enumerate(plans) if points)
        for step, reference, points in zip(SCENARIO[: last + 1], undisturbed, plans, strict=False):
            act = step.prepare(world)
            if not points:
                act()
                continue
            point = points.pop()
            try:
                with exchanges.armed(point.spoil, point.at):
                    act()
            except point.ends:
                step.again(world)()
            left = everything(world)
            wrong = {n for n in left | reference.left if left.get(n) != reference.left.get(n)}
            assert not wrong, (step.name, point, exchanges.kind)


# in classes, so that they are shared out between the processes that run tests
class TestRefused:
    def test_the_next_run_mends_what_a_refused_statement_leaves(
        self, models: World, exchanges: Exchanges, undisturbed: list[Undisturbed]
    ) -> None:
        plans = [
            [
                Point(n, faults.refused(REFUSALS[n % len(REFUSALS)]), (psycopg.Error,))
                for n in range(1, step.exchanges + 1)
            ]
            for step in undisturbed
        ]
        live(models, exchanges, undisturbed, plans)


class TestDied:
    def test_the_next_run_mends_what_a_killed_one_leaves(
        self, models: World, exchanges: Exchanges, undisturbed: list[Undisturbed]
    ) -> None:
        # between two of these points the database is the same, whenever the process dies
        plans = [[Point(n, faults.dies, (Died,)) for n in step.durable] for step in undisturbed]
        live(models, exchanges, undisturbed, plans)


class TestLost:
    def test_a_run_goes_on_when_its_connection_is_lost(
        self, models: World, exchanges: Exchanges, undisturbed: list[Undisturbed]
    ) -> None:
        passing = (faults.cut_off, faults.refused(DeadlockDetected))
        plans = [
            [
                *(Point(n, faults.answer_lost, ()) for n in step.durable),
                # a third of the others, since each takes a new connection
                *(Point(n, passing[n % 2], ()) for n in range(1, step.exchanges + 1, 3)),
            ]
            for step in undisturbed
        ]
        live(models, exchanges, undisturbed, plans)
