"""One row explained, erased for good, tried again."""

from __future__ import annotations

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.texts import erasures
from embeddings_pipeline.sync.erase import erase, lift, retry
from embeddings_pipeline.sync.explain import Explanation, explain
from tests.support.world import SCHEMA, World


@pytest.fixture
def things(world: World) -> World:
    world.table("id bigint, name text, consent boolean")
    world.insert((1, "Pump", True), (2, "Hose", True), (3, "Pump", True), (4, None, True))
    return world


def explained(world: World, item: Entity, row_id: str) -> Explanation:
    return explain(world.postgres, world.postgres, world.names_of(item), world.encoders, row_id)


def test_a_row_is_explained_before_and_after_its_first_run(things: World) -> None:
    item = things.declare(include=["name"])
    assert explained(things, item, "1").next == "render it: it is new"
    things.run(item)

    same = explained(things, item, "1")
    (chunk,) = same.chunks
    (in_set,) = chunk.sets
    assert same.next == "not render it: nothing changed since the last pass"
    assert (chunk.text, chunk.tokens, chunk.truncated) == ("name: Pump", 5, False)
    assert in_set.next == "keep it: it is up to date"
    assert in_set.vector is not None
    assert chunk.equal == ["3"]
    assert same.partition == item.partitions.key_of("1")


def test_what_the_next_run_does_with_a_row_is_foretold(things: World) -> None:
    item = things.declare(include=["name"], where="consent")
    things.run(item)
    things.sql("update staging.stg_item set name = 'Valve' where id = 1")
    things.sql("update staging.stg_item set consent = false where id = 2")

    changed = explained(things, item, "1")
    assert changed.next.endswith("its text differs")
    assert changed.chunks[0].sets[0].next == "encode it: its text changed"
    things.sql("update staging.stg_item set name = 'Hose' where id = 3")
    known = explained(things, item, "3").chunks[0].sets[0].next
    assert known == "take it from the cache: its text changed"
    assert explained(things, item, "2").next.startswith("delete it")
    assert explained(things, item, "4").next == "do nothing: it has no text"
    with pytest.raises(ConfigurationError, match="has no row with id '99'"):
        explained(things, item, "99")
    with pytest.raises(ConfigurationError, match="'x' is not a bigint"):
        explained(things, item, "x")


def test_each_set_is_told_what_becomes_of_it_under_another_model(things: World) -> None:
    item = things.declare(include=["name"])
    things.run(item)
    first = things.encoder
    things.use(first.revised("r2"))

    def fates() -> list[tuple[int | None, str, str]]:
        (chunk,) = explained(things, item, "1").chunks
        return [(s.set_number, s.state, s.next) for s in chunk.sets]

    (frozen, new) = fates()
    assert frozen[:2] == (1, "live")
    assert frozen[2].startswith("do nothing: the set is frozen: model 'fake/words'")
    assert new == (None, "new", "encode it: the set is new")
    things.run(item)
    assert fates() == [
        (1, "retired", "do nothing: the set is retired"),
        (2, "live", "keep it: it is up to date"),
    ]
    things.use(first)
    assert fates()[0] == (1, "retired", "keep it: it is up to date")


def test_an_erased_row_leaves_no_trace_and_stays_away_until_lifted(things: World) -> None:
    item = things.declare(include=["name"])
    things.run(item)
    names = things.names_of(item)

    assert erase(things.postgres, names, ["1", "77"], things.encoders.cache.evict) == (1, 0)

    with open_tables(things.postgres, names) as tables:
        assert erasures.count_remains(tables) == 0
    assert things.sql(f"select id from {SCHEMA}.item_vectors_1 order by 1") == [(2,), (3,)]
    assert explained(things, item, "1").next.startswith("skip it: erased")
    assert things.run(item)["read"] == 0
    assert ("1", 0) not in things.view()

    assert lift(things.postgres, names, ["1"]) == 1
    things.run(item)
    assert things.view()[("1", 0)] == "name: Pump"


@pytest.mark.parametrize(
    ("kind", "stored", "said"),
    [
        ("bigint", "7", " 007"),
        ("bigint", "7", "+7"),
        ("uuid", "0a0b0c0d-0000-1111-2222-333344445555", "0A0B0C0D-0000-1111-2222-333344445555"),
        ("uuid", "0a0b0c0d-0000-1111-2222-333344445555", "{0a0b0c0d000011112222333344445555}"),
        ("text", " 007", " 007"),
    ],
)
def test_an_id_in_another_spelling_is_erased_as_well(
    world: World, kind: str, stored: str, said: str
) -> None:
    world.table(f"id {kind}, name text")
    world.insert((stored, "Pump"))
    item = world.declare()
    world.run(item)

    erased = erase(world.postgres, world.names_of(item), [said], world.encoders.cache.evict)
    assert erased.rows == 1
    world.run(item)
    assert world.view() == {}
    assert lift(world.postgres, world.names_of(item), [said]) == 1


def test_a_row_may_be_erased_before_the_first_run(things: World) -> None:
    item = things.declare(include=["name"])
    names = things.names_of(item)
    assert erase(things.postgres, names, ["1"], things.encoders.cache.evict) == (0, 0)
    things.run(item)
    assert sorted(row_id for row_id, _ in things.view()) == ["2", "3"]


def test_a_row_erased_while_the_model_runs_stays_erased(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    names = things.names_of(item)
    things.encoder.before = lambda texts: void(
        erase(things.postgres, names, ["1", "3"], things.encoders.cache.evict)
    )
    things.vectors(item)
    with open_tables(things.postgres, names) as tables:
        assert erasures.count_remains(tables) == 0
    assert things.sql(f"select id from {SCHEMA}.item_vectors_1") == [(2,)]


def void(value: object) -> None:
    """A result that is not needed."""


def test_retry_takes_rows_out_of_quarantine(things: World) -> None:
    things.insert((9, "x" * (1 << 20), True))
    item = things.declare(include=["name"])
    assert things.run(item)["quarantined"] == 1
    assert explained(things, item, "9").quarantine[0].stage == "render"
    assert things.run(item)["read"] == 0

    assert retry(things.postgres, things.names_of(item)) == 1
    assert things.run(item)["read"] == 1
    assert things.sql(f"select attempts from {SCHEMA}.quarantine") == [(1,)]

    things.sql("update staging.stg_item set name = 'short' where id = 9")
    things.run(item)
    assert things.sql(f"select * from {SCHEMA}.quarantine") == []
