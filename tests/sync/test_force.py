"""A forced run encodes again what is current, each text once, and goes on with one cut short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest

from embeddings_pipeline.errors import Interrupted
from embeddings_pipeline.store import locks
from tests.encoders.remembering import encoders
from tests.waiting import until
from tests.words import WORDS, WordsEncoder
from tests.world import SCHEMA, World

pytestmark = pytest.mark.usefixtures("small_windows")


@pytest.fixture
def things(world: World) -> World:
    """A hundred current rows in windows of twenty."""
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)])
    world.run(world.declare(partitions={"count": 2}))
    world.encoder.encoded.clear()
    return world


def force(world: World, **request: Any) -> int:
    """A forced run; returns how many texts it encoded."""
    item = world.declare(partitions={"count": 2})
    return world.vectors(item, force=True, **request).counts.encoded


def interrupt(world: World, after: int) -> None:
    """A forced run that is asked to stop after so many texts."""
    with pytest.raises(Interrupted, match="run again with `force` to go on"):
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


def test_an_interrupted_forced_run_finds_its_texts_in_rows_that_they_moved_from(
    things: World,
) -> None:
    interrupt(things, after=40)
    done = len(things.encoder.encoded)
    things.sql("update staging.stg_item set name = 'thing ' || (id + 1) % 100")
    item = things.declare(partitions={"count": 2})
    (planned,) = things.plan(item, force=True).sets
    things.texts(item, force=True)
    assert force(things) == planned.encode == 100 - done


def test_a_plan_counts_what_an_interrupted_forced_run_loses_with_its_rows(things: World) -> None:
    interrupt(things, after=40)
    things.sql("update staging.stg_item set id = id + 1000")
    item = things.declare(partitions={"count": 2}, max_delete_share=1)
    (planned,) = things.plan(item, force=True).sets
    things.texts(item, force=True)
    assert force(things) == planned.encode == 100


def test_a_run_in_between_copies_nothing_that_is_yet_to_be_made_anew(things: World) -> None:
    interrupt(things, after=40)
    done = set(things.encoder.encoded)
    old = next(n for n in range(100) if f"name: thing {n}" not in done)
    things.insert((500, f"thing {old}"))
    item = things.declare(partitions={"count": 2})
    (planned,) = things.plan(item).sets
    things.texts(item)
    assert things.vectors(item).counts.encoded == planned.encode == 1
    assert force(things) == 100 - len(done) - 1
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_a_run_in_between_hands_on_nothing_that_is_yet_to_be_made_anew(things: World) -> None:
    interrupt(things, after=40)
    things.sql("update staging.stg_item set name = 'thing ' || (id + 1) % 100")
    item = things.declare(partitions={"count": 2})
    (planned,) = things.plan(item).sets
    things.texts(item)
    between = things.vectors(item).counts.encoded
    force(things)
    assert between == planned.encode == 60
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_a_run_in_between_does_not_end_an_interrupted_forced_one(things: World) -> None:
    interrupt(things, after=40)
    assert things.vectors(things.declare(partitions={"count": 2})).counts.encoded == 0
    assert 0 < force(things) < 100


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


def test_a_run_in_between_believes_no_cache_of_what_is_yet_to_be_made_anew(world: World) -> None:
    world.encoders = encoders(None)
    world.use(world.encoder)
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)])
    item = world.declare()
    world.run(item)
    world.encoder.encoded.clear()
    force_some = world.vectors(item, force=True, limit=40).counts.encoded
    world.insert(*[(1_000 + n, f"thing {n}") for n in range(100)])

    (planned,) = world.plan(item).sets
    world.texts(item)
    between = world.vectors(item).counts
    world.vectors(item, force=True)

    assert (planned.encode, planned.cached) == (between.encoded, between.cached)
    assert force_some + between.encoded == 100
    assert len(world.encoder.encoded) == len(set(world.encoder.encoded)) == 100


def test_a_forced_run_that_waited_for_another_makes_anew_what_that_copied(things: World) -> None:
    item = things.declare(partitions={"count": 2})
    on, (vector_set,) = things.on(item), things.sets(item)
    thread = Thread(target=force, args=(things,))
    with (
        things.postgres.connection() as other,
        locks.partitions(other, on, vector_set.table_name, item.partitions.keys(), 0),
    ):
        thread.start()
        until(lambda: things.sets(item)[0].force_since is not None)
        things.sql(f"update {SCHEMA}.item_vectors_1 set embedded_at = clock_timestamp()")
    thread.join(60)
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_a_run_in_between_hands_on_what_was_made_anew(things: World) -> None:
    assert force(things, limit=90) == 90
    things.sql("update staging.stg_item set id = id + 1000")
    item = things.declare(partitions={"count": 2}, max_delete_share=1)
    (planned,) = things.plan(item).sets
    things.texts(item)
    assert things.vectors(item).counts.encoded == planned.encode == 10
    assert len(things.encoder.encoded) == len(set(things.encoder.encoded)) == 100


def test_a_run_in_between_hands_on_chunks_that_were_made_anew_alone(world: World) -> None:
    world.table("id bigint, name text")
    long = " ".join(f"Sentence {n} of it." for n in range(9))
    world.insert((1, long), (2, f"{long} {long}"), (3, "short"))
    item = world.declare(template="{name}", chunk={"tokens": 16}, partitions={"count": 1})
    world.run(item)
    world.encoder.encoded.clear()
    world.vectors(item, force=True, limit=1)
    done = [*world.encoder.encoded]
    world.sql("update staging.stg_item set name = 'brief' where id in (1, 2)")
    world.insert(*[(10 + n, text) for n, text in enumerate(done)])
    (planned,) = world.plan(item).sets
    world.encoder.encoded.clear()
    world.texts(item)
    world.vectors(item)
    assert planned.encode == len(world.encoder.encoded)
    assert not {*done} & {*world.encoder.encoded}
