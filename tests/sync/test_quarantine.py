"""What goes to quarantine, for which set, and when it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from embeddings_pipeline.cli.output import print_json
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.texts import quarantine
from embeddings_pipeline.sync.erase import retry
from embeddings_pipeline.sync.explain import explain
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World, refusing


def entries(world: World) -> list[tuple[object, ...]]:
    """The revision of the model that failed, and how often."""
    return world.sql(
        f"select i.revision, i.model, q.attempts from {SCHEMA}.quarantine q"
        f" join {SCHEMA}.model_identities i on i.number = q.identity order by 1, 2"
    )


def a_day_later(world: World) -> None:
    """Failures are a day old."""
    world.sql(f"update {SCHEMA}.quarantine set last_seen = last_seen - interval '1 day'")


def given_up(world: World) -> Entity:
    """Two rows; the model failed on one until it was no longer tried."""
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    item = world.declare()
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    for _ in range(3):
        a_day_later(world)
        world.vectors(item)
    a_day_later(world)
    return item


def test_another_model_tries_what_the_first_one_failed_on(world: World) -> None:
    item = given_up(world)
    assert entries(world) == [("r1", "fake/words", 3)]

    world.use(world.encoder.revised("r2"))
    counts = world.run(item)

    assert (counts["encoded"], counts["quarantined"]) == (2, 0)
    assert world.view() == {("1", 0): "name: odd", ("2", 0): "name: even"}


@pytest.mark.parametrize("keys", [{}, {"weights": {"name": 2, "note": 1}}])
def test_the_latest_failures_are_those_of_one_model(world: World, keys: dict[str, Any]) -> None:
    world.table("id bigint, name text, note text")
    world.insert((1, "odd", "new"), (2, "even", "old"))
    world.use(refusing(world, "odd", revision="r1"))
    item = world.declare(**keys)
    world.run(item)
    world.use(world.encoder.revised("r2"))
    world.vectors(item)

    with open_tables(world.postgres, world.names_of(item)) as tables:
        identities = {s.state: s.identity_number for s in world.sets(item)}
        failed = quarantine.latest(tables, identities["live"], 9, 99)
        assert [(row.id, row.stage, "odd" in (row.text or "")) for row in failed] == [
            ("1", "encode", True)
        ]
        assert quarantine.latest(tables, identities["building"], 9, 99) == []


def test_two_models_have_attempts_of_their_own(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    world.use(refusing(world, "odd", revision="r1"))
    world.run(world.declare())
    a_day_later(world)
    other = refusing(world, "odd")
    other.identity = replace(other.identity, model="fake/other")
    world.encoders.add(other)
    item = world.declare(model="fake/other")

    world.vectors(item)

    assert entries(world) == [("r1", "fake/words", 2), ("r2", "fake/other", 1)]
    a_day_later(world)
    # neither has seen it three times: both try again, the live one for the last time
    assert world.vectors(item).counts.quarantined == 2
    a_day_later(world)
    assert world.vectors(item).counts.quarantined == 1


def test_two_sets_of_one_model_have_attempts_in_common(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    world.use(refusing(world, "odd", revision="r1"))
    world.run(world.declare())
    a_day_later(world)
    world.vectors(world.declare(storage="halfvec"))
    assert entries(world) == [("r1", "fake/words", 2)]


def test_a_run_that_follows_at_once_asks_the_model_for_no_text_that_failed(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    item = world.declare()
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    assert world.run(item)["pending"] == 0
    assert entries(world) == [("r1", "fake/words", 1)]
    a_day_later(world)
    assert world.run(item)["pending"] == 1


def test_an_entry_goes_when_its_text_gets_a_vector(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    item = world.declare()
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    world.encoder.before = lambda texts: None
    a_day_later(world)
    world.run(item)
    assert entries(world) == []
    assert len(world.view()) == 2


def test_an_entry_goes_when_another_entity_has_its_text_encoded(world: World) -> None:
    for name in ("shoe", "lamp"):
        world.table("id bigint, name text", name=f"stg_{name}")
        world.insert((1, "odd"), (2, name), name=f"stg_{name}")
    world.use(refusing(world, "odd", revision="r1"))
    world.run(world.declare("lamp"))
    assert entries(world) == [("r1", "fake/words", 1)]
    a_day_later(world)
    world.use(WordsEncoder(world.encoder.identity))
    world.run(world.declare("shoe"))

    assert entries(world) == []
    world.use(refusing(world, "odd", revision="r1"))
    assert world.run(world.declare("lamp"))["reused"] == 1


def test_a_model_that_no_set_uses_leaves_no_entries(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"), (3, "other"))
    item = world.declare(keep_sets=0)
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    world.use(WordsEncoder(replace(world.encoder.identity, revision="r2")))
    world.run(item)
    assert [s.number for s in world.sets(item)] == [2]
    assert entries(world) == []


def test_a_text_that_cannot_be_rendered_any_more_leaves_no_failure_of_a_model(
    world: World,
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    item = world.declare()
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    world.sql("update staging.stg_item set name = repeat('x', 1 << 20) where id = 1")
    world.run(item)
    assert world.sql(f"select stage from {SCHEMA}.quarantine") == [("render",)]


def test_a_plan_leaves_out_what_is_left_alone_also_where_it_is_rendered_again(
    world: World,
) -> None:
    world.table("id bigint, name text, stock int")
    world.insert((1, "odd", 1), (2, "even", 1))
    item = world.declare(include=["name"], filters=["stock"])
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    for _ in range(3):
        a_day_later(world)
        world.vectors(item)
    # the row is rendered again, and its text stays the same
    world.sql("update staging.stg_item set stock = 2 where id = 1")

    (planned,) = world.plan(item).sets

    assert (planned.pending, planned.encode) == (0, 0)
    assert world.run(item)["pending"] == 0


def test_an_explanation_tells_a_failure_of_this_text_from_one_of_another(world: World) -> None:
    item = given_up(world)

    def next_of_vector() -> str:
        databases = (world.postgres, world.postgres)
        return explain(*databases, world.names_of(item), world.encoders, "1").chunks[0].sets[0].next

    assert next_of_vector().startswith("do nothing yet: the model failed on it")
    world.sql("update staging.stg_item set name = 'even' where id = 1")
    assert next_of_vector() == "take it from the cache: it has none"


def test_an_explanation_says_that_a_vector_which_cannot_be_renewed_is_left_alone(
    world: World,
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"), (3, "three"))
    item = world.declare()
    world.run(item)
    world.use(refusing(world, "odd", revision="r1"))
    # cut short, so that the renewal goes on
    world.vectors(item, force=True, limit=2)
    databases = (world.postgres, world.postgres)
    (chunk,) = explain(*databases, world.names_of(item), world.encoders, "1").chunks
    assert chunk.sets[0].vector is not None
    assert chunk.sets[0].next.startswith("do nothing yet: the model failed on it")


def test_an_explanation_says_that_a_row_which_failed_to_render_is_left_alone(
    world: World,
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "x" * (1 << 20)))
    item = world.declare()

    def next_of_row() -> str:
        databases = (world.postgres, world.postgres)
        return explain(*databases, world.names_of(item), world.encoders, "1").next

    assert next_of_row().startswith("fail on it: ")
    world.texts(item)
    assert next_of_row().startswith("do nothing: it failed on it (")
    retry(world.postgres, world.names_of(item))
    assert next_of_row().startswith("fail on it: ")


def test_an_explanation_as_json_names_what_it_gives(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd"), (2, "even"))
    item = world.declare()
    world.use(refusing(world, "odd", revision="r1"))
    world.run(item)
    databases = (world.postgres, world.postgres)

    for row_id in ("1", "2"):
        print_json(explain(*databases, world.names_of(item), world.encoders, row_id))
    failed, even = map(json.loads, capsys.readouterr().out.splitlines())

    (entry,) = failed["quarantine"]
    assert (entry["stage"], entry["model"], entry["attempts"]) == ("encode", "fake/words", 1)
    assert entry["text_hash"] == failed["chunks"][0]["text_hash"]
    vector = even["chunks"][0]["sets"][0]["vector"]
    assert vector["text_hash"] == even["chunks"][0]["text_hash"]


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_a_vector_that_a_halfvec_cannot_hold_fails_alone_whatever_the_storage(
    world: World, storage: str
) -> None:
    class Loud(WordsEncoder):
        def _vector(self, text: str) -> Vector:
            return super()._vector(text) * (1e6 if "loud" in text else 1)

    world.use(Loud(replace(world.encoder.identity, normalized=False)))
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "loud"))
    item = world.declare(storage=storage)
    world.texts(item)
    counts = world.vectors(item).counts
    assert (counts.encoded, counts.quarantined) == (1, 1)
    ((error,),) = world.sql(f"select error from {SCHEMA}.quarantine")
    assert "the maximum of a halfvec" in error
    assert world.sql(f"select id from {SCHEMA}.item_vectors_1") == [(1,)]
