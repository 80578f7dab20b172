"""Each exchange with the database fails in its turn, and the end is always the same one.

The scenario is short but goes through all that a run does: windows, chunks, equal texts, a row
without text and one that no model takes, changed and deleted rows, another definition, a new model
beside the live one, a flip, a rollback, an erasure and a change of storage. In each of its lives
one exchange of each step goes wrong: a ninth of them in their turn, drawn by chance, or all where
EVERY_STATEMENT is set. After each step all that is stored must be what it is in a life in which
nothing goes wrong.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.errors import DeadlockDetected, DiskFull, InternalError_, QueryCanceled
from psycopg.sql import SQL, Identifier, Literal

from tests.support import faults
from tests.support.faults import Died, Exchanges, Spoil
from tests.support.scenario import SCENARIO, Act, begin
from tests.support.words import WORDS, WordsEncoder, refuses
from tests.support.world import SCHEMA, World

# each goes through hundreds of lives
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# none of these decide whether a row is right
UNCOMPARED = (
    *("run_id", "version", "attempts", "serialised_at", "encoded_at", "updated_at", "created_at"),
    *("published_at", "first_seen", "last_seen", "erased_at", "last_pass_at", "migrated_at"),
    *("indexed_at", "recall_check", "counted_at", "since", "unused_since"),
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


@dataclass(frozen=True)
class Undisturbed:
    """A step in which nothing went wrong: what it left, how many exchanges it took, and after
    which of them the database was another than before."""

    left: dict[str, list[str]]
    exchanges: int
    durable: list[int]


def drawn(exchanges: int) -> range:
    """The numbers of the exchanges of a step that are to go wrong."""
    every = 1 if os.environ.get("EVERY_STATEMENT") else 9
    return range(random.randint(1, every), exchanges + 1, every)


def everything(world: World) -> dict[str, list[str]]:
    """All that is stored, apart from times, claims, and the histories of runs and quality."""
    with world.postgres.connection() as connection:
        tables = connection.execute(
            "select tablename from pg_tables where schemaname = %s and tablename <> all(%s)",
            # claims end by themselves
            (SCHEMA, ["run_ledger", "quality_history", "claims"]),
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
        world.encoders.add(WordsEncoder(replace(WORDS, model=name), refuses("poison")))
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
                for n in drawn(step.exchanges)
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
                *(Point(n, passing[n % 2], ()) for n in drawn(step.exchanges)),
            ]
            for step in undisturbed
        ]
        live(models, exchanges, undisturbed, plans)
