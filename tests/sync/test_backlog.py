"""A run of some partitions that goes on with the backlog of others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import DayPartitions, today
from tests.support.world import SCHEMA, World


@pytest.fixture
def event(world: World) -> Entity:
    """Two events of one day and two of another, all pending."""
    world.table("id bigint, name text, day date", name="stg_event")
    world.insert(
        (1, "one", "2026-01-01"),
        (2, "two", "2026-01-01"),
        (3, "three", "2026-01-03"),
        (4, "four", "2026-01-03"),
        name="stg_event",
    )
    event = world.declare(
        "event",
        include=["name"],
        partitions={"by": "day", "column": "day", "start": "2026-01-01"},
    )
    world.texts(event)
    return event


def encoded(world: World) -> list[str]:
    return sorted(text.removeprefix("name: ") for text in world.encoder.encoded)


def test_other_days_wait(world: World, event: Entity) -> None:
    result = world.vectors(event, keys=["2026-01-03"])
    assert result.keys == ["2026-01-03"]
    assert encoded(world) == ["four", "three"]


def test_a_run_goes_on_with_the_backlog_of_other_days(world: World, event: Entity) -> None:
    result = world.vectors(event, include_backlog=True, keys=["2026-01-03"])
    assert result.keys == ["2026-01-01", "2026-01-03"]
    assert world.encoder.encoded[:2] == ["name: three", "name: four"]
    assert encoded(world) == ["four", "one", "three", "two"]


def test_a_text_that_fails_is_tried_once_in_a_run(world: World, event: Entity) -> None:
    world.encoder.before = refuse_four
    result = world.vectors(event, include_backlog=True, keys=["2026-01-03"])
    assert (result.counts.pending, result.counts.encoded, result.counts.quarantined) == (4, 3, 1)
    assert world.sql(f"select attempts from {SCHEMA}.quarantine") == [(1,)]


def test_the_ledger_names_the_days_asked_for_and_the_others(world: World, event: Entity) -> None:
    world.vectors(event, "run", include_backlog=True, keys=["2026-01-03"])
    (row,) = world.sql(f"select partition_keys from {SCHEMA}.run_ledger where run_id = 'run'")
    assert row == (["2026-01-01", "2026-01-03"],)


def refuse_four(texts: Sequence[str]) -> None:
    if "name: four" in texts:
        raise ValueError("cannot take this")


def test_a_limit_holds_for_both_and_the_asked_days_come_first(world: World, event: Entity) -> None:
    result = world.vectors(event, include_backlog=True, keys=["2026-01-03"], limit=3)
    assert result.counts.encoded == 3
    assert {"three", "four"} < set(encoded(world))


def test_a_forced_run_with_its_backlog_encodes_each_text_once(world: World, event: Entity) -> None:
    world.vectors(event, include_backlog=True, keys=["2026-01-03"])
    world.encoder.encoded.clear()
    result = world.vectors(event, include_backlog=True, keys=["2026-01-03"], force=True)
    assert result.counts.encoded == 4
    assert encoded(world) == ["four", "one", "three", "two"]


def test_a_plan_of_a_forced_run_with_a_limit_goes_by_the_order_of_days(
    world: World, event: Entity
) -> None:
    assert isinstance(event.partitions, DayPartitions)
    world.insert((5, "one of today that is longer", today()), name="stg_event")
    (planned,) = world.plan(event, limit=1, force=True).sets
    world.texts(event)
    keys = event.partitions.recent()
    done = world.vectors(event, include_backlog=True, keys=keys, limit=1, force=True).counts
    assert encoded(world) == ["one of today that is longer"]
    assert (planned.encode, planned.tokens) == (done.encoded, done.tokens)


def test_a_plan_with_a_limit_begins_with_the_days_that_a_run_begins_with(
    world: World, event: Entity
) -> None:
    assert isinstance(event.partitions, DayPartitions)
    world.insert((5, "one of today that is longer", today()), name="stg_event")
    (planned,) = world.plan(event, limit=1).sets
    world.texts(event)
    done = world.vectors(
        event, include_backlog=True, keys=event.partitions.recent(), limit=1
    ).counts
    assert encoded(world) == ["one of today that is longer"]
    assert (planned.encode, planned.tokens) == (done.encoded, done.tokens)
