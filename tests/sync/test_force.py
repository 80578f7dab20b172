"""A forced run encodes current texts again, each once, and finishes an interrupted forced run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from embeddings_pipeline.errors import Interrupted
from tests.support.databases import Templates
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

pytestmark = pytest.mark.usefixtures("small_windows")


@pytest.fixture
def things(world: World, templates: Templates) -> World:
    """A hundred current rows in two partitions."""
    templates.restore(world, encode_things)
    return world


def encode_things(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)])
    world.run(world.declare(partitions={"count": 2}))


def force(world: World, **request: Any) -> int:
    """A forced run; returns how many texts it encoded."""
    item = world.declare(partitions={"count": 2})
    return world.vectors(item, force=True, **request).counts.encoded


def interrupt(world: World, after: int) -> None:
    """A forced run that is stopped after this number of texts."""
    with pytest.raises(Interrupted, match="run again to go on"):
        force(world, stopped=lambda: len(world.encoder.encoded) >= after)


def test_a_forced_run_encodes_each_text_each_time(things: World) -> None:
    assert force(things) == 100
    assert force(things) == 100


def test_an_interrupted_forced_run_goes_on_where_it_was(things: World) -> None:
    interrupt(things, after=40)
    done = set(things.encoder.encoded)

    assert 0 < force(things) == 100 - len(done)

    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100
    # that was the end of it: the next one is for all rows again
    assert force(things) == 100


def test_rows_under_new_ids_are_encoded_again_by_a_forced_run(things: World) -> None:
    things.sql("update staging.stg_item set id = id + 1000")
    item = things.declare(partitions={"count": 2})
    things.texts(item, allow_deletes=True, force=True)
    assert force(things) == 100


def test_the_next_run_finishes_an_interrupted_renewal(things: World) -> None:
    interrupt(things, after=40)
    done = set(things.encoder.encoded)
    item = things.declare(partitions={"count": 2})
    (planned,) = things.plan(item).sets

    counts = things.vectors(item).counts

    assert counts.encoded == planned.encode == 100 - len(done)
    assert things.sql(f"select * from {SCHEMA}.renewals") == []
    assert things.vectors(item).counts.pending == 0


def test_texts_that_moved_are_renewed_once(things: World) -> None:
    interrupt(things, after=40)
    things.sql("update staging.stg_item set name = 'thing ' || (id + 1) % 100")
    item = things.declare(partitions={"count": 2})
    done = len(things.encoder.encoded)
    (planned,) = things.plan(item, force=True).sets
    things.texts(item, force=True)
    assert force(things) == planned.encode == 100 - done
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_rows_under_new_ids_are_renewed_once(things: World) -> None:
    interrupt(things, after=40)
    done = len(things.encoder.encoded)
    things.sql("update staging.stg_item set id = id + 1000")
    item = things.declare(partitions={"count": 2}, max_delete_share=1)
    (planned,) = things.plan(item, force=True).sets
    things.texts(item, force=True)
    assert force(things) == planned.encode == 100 - done


def test_a_new_row_takes_no_vector_that_is_to_be_renewed(things: World) -> None:
    interrupt(things, after=40)
    done = set(things.encoder.encoded)
    old = next(n for n in range(100) if f"name: thing {n}" not in done)
    things.insert((500, f"thing {old}"))
    item = things.declare(partitions={"count": 2})
    things.texts(item)
    assert things.sql(f"select * from {SCHEMA}.item_vectors_1 where id = 500") == []
    assert things.vectors(item).counts.encoded == 100 - len(done)
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_equal_texts_of_another_entity_keep_their_vectors(things: World) -> None:
    things.table("id bigint, name text", name="stg_other")
    things.insert((1, "thing 1"), name="stg_other")
    other = things.declare("other")
    things.run(other)
    before = things.sql(f"select version from {SCHEMA}.other_vectors_1")
    assert force(things) == 100
    assert things.run(other)["pending"] == 0
    assert things.sql(f"select version from {SCHEMA}.other_vectors_1") == before


def test_a_renewal_of_one_partition_leaves_the_others_alone(things: World) -> None:
    ((rows,),) = things.sql(f"select count(*) from {SCHEMA}.item_texts where partition_key = '01'")
    with pytest.raises(Interrupted):
        force(things, keys=["01"], stopped=lambda: len(things.encoder.encoded) >= 20)
    item = things.declare(partitions={"count": 2})
    assert things.vectors(item, keys=["00"]).counts.pending == 0
    assert things.vectors(item).counts.encoded == rows - 20
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == rows


def test_a_forced_run_of_other_partitions_takes_all_their_rows(things: World) -> None:
    interrupt(things, after=60)
    ((rows,),) = things.sql(f"select count(*) from {SCHEMA}.item_texts where partition_key = '00'")
    assert force(things, keys=["00"]) == rows > 0


def test_a_forced_run_with_a_limit_goes_on_with_the_next_one(things: World) -> None:
    assert force(things, limit=70) == 70
    assert force(things, limit=70) == 30
    assert len(set(things.encoder.encoded)) == 100


def test_a_forced_run_whose_connection_is_lost_encodes_no_stored_text_again(things: World) -> None:
    def disconnect(texts: Sequence[str]) -> None:
        if len(things.encoder.encoded) >= 40:
            things.encoder.before = lambda texts: None
            things.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )

    things.encoder.before = disconnect
    assert force(things) == 100
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_a_forced_run_encodes_equal_texts_of_different_windows_once(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n % 7}") for n in range(100)])
    item = world.declare()
    world.run(item)
    world.encoder.encoded.clear()

    counts = world.vectors(item, force=True).counts

    assert (counts.encoded, counts.reused) == (7, 93)
    assert sorted(world.encoder.encoded) == [f"name: thing {n}" for n in range(7)]


def test_a_forced_run_takes_nothing_that_was_encoded_before_it(things: World) -> None:
    things.insert(*[(1000 + n, f"thing {n}") for n in range(100)])
    item = things.declare(partitions={"count": 2})
    things.texts(item)

    counts = things.vectors(item, force=True).counts

    # the new rows were given what there was, and are renewed with the others
    assert (counts.pending, counts.encoded, counts.reused) == (200, 100, 100)


def test_an_interrupted_forced_run_leaves_a_set_alone_that_it_had_finished(things: World) -> None:
    live, other = things.encoder, WordsEncoder(replace(WORDS, model="fake/other"))
    things.encoders.add(other)
    item = things.declare(partitions={"count": 2}, model="fake/other")
    things.vectors(item)
    other.encoded.clear()

    with pytest.raises(Interrupted):
        things.vectors(item, force=True, stopped=lambda: len(other.encoded) >= 20)
    things.vectors(item, force=True)

    for encoder in (live, other):
        assert len(encoder.encoded) == len(set(encoder.encoded)) == 100


def test_a_run_in_between_goes_on_with_rows_under_new_ids(things: World) -> None:
    assert force(things, limit=90) == 90
    things.sql("update staging.stg_item set id = id + 1000")
    item = things.declare(partitions={"count": 2}, max_delete_share=1)
    (planned,) = things.plan(item).sets
    things.texts(item)
    assert things.vectors(item).counts.encoded == planned.encode == 10
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100
