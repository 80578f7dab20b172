"""A run for some partitions that goes on with what is pending in others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import DayPartitions, today
from embeddings_pipeline.sync.drain import sync_and_drain
from embeddings_pipeline.sync.request import Request
from embeddings_pipeline.sync.sets import SetsResult
from tests.world import SCHEMA, World


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


def run(world: World, event: Entity, *, drain: bool, **request: Any) -> SetsResult:
    asked = Request(run_id="run", **request)
    return sync_and_drain(world.postgres, world.on(event), world.encoders, asked, drain=drain)


def encoded(world: World) -> list[str]:
    return sorted(text.removeprefix("name: ") for text in world.encoder.encoded)


def test_without_draining_other_days_wait(world: World, event: Entity) -> None:
    result = run(world, event, drain=False, keys=["2026-01-03"])
    assert result.keys == ["2026-01-03"]
    assert encoded(world) == ["four", "three"]


def test_draining_goes_on_with_other_days(world: World, event: Entity) -> None:
    result = run(world, event, drain=True, keys=["2026-01-03"])
    assert result.keys == ["2026-01-01", "2026-01-03"]
    assert world.encoder.encoded[:2] == ["name: three", "name: four"]
    assert encoded(world) == ["four", "one", "three", "two"]


def test_a_text_that_fails_is_tried_once_in_a_run(world: World, event: Entity) -> None:
    world.encoder.before = refuse_four
    result = run(world, event, drain=True, keys=["2026-01-03"])
    assert (result.counts.pending, result.counts.encoded, result.counts.quarantined) == (4, 3, 1)
    assert world.sql(f"select id, attempts from {SCHEMA}.quarantine") == [("4", 1)]


def test_the_ledger_names_the_days_asked_for_and_the_others(world: World, event: Entity) -> None:
    run(world, event, drain=True, keys=["2026-01-03"])
    (row,) = world.sql(f"select partition_keys from {SCHEMA}.run_ledger where run_id = 'run'")
    assert row == (["2026-01-01", "2026-01-03"],)


def refuse_four(texts: Sequence[str]) -> None:
    if "name: four" in texts:
        raise ValueError("cannot take this")


def test_a_limit_holds_for_both_and_the_asked_days_come_first(world: World, event: Entity) -> None:
    result = run(world, event, drain=True, keys=["2026-01-03"], limit=3)
    assert result.counts.encoded == 3
    assert {"three", "four"} < set(encoded(world))


def test_a_forced_drain_encodes_each_text_once(world: World, event: Entity) -> None:
    run(world, event, drain=True, keys=["2026-01-03"])
    world.encoder.encoded.clear()
    result = run(world, event, drain=True, keys=["2026-01-03"], force=True)
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
    done = run(world, event, drain=True, keys=keys, limit=1, force=True).counts
    assert encoded(world) == ["one"]
    assert (planned.encode, planned.tokens) == (done.encoded, done.tokens)


def test_a_plan_with_a_limit_begins_with_the_days_that_a_run_begins_with(
    world: World, event: Entity
) -> None:
    assert isinstance(event.partitions, DayPartitions)
    world.insert((5, "one of today that is longer", today()), name="stg_event")
    (planned,) = world.plan(event, limit=1).sets
    world.texts(event)
    done = run(world, event, drain=True, keys=event.partitions.recent(), limit=1).counts
    assert encoded(world) == ["one of today that is longer"]
    assert (planned.encode, planned.tokens) == (done.encoded, done.tokens)
