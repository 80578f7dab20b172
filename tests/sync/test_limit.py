"""A limit bounds the encoded texts, and later runs reach every row."""

from __future__ import annotations

import pytest

from embeddings_pipeline.entities.entity import Entity
from tests.support.world import SCHEMA, World


def long(row_id: int, sentences: int) -> str:
    return " ".join(f"Sentence number {n} of {row_id} says a thing." for n in range(sentences))


def chunked(world: World, *sentences: int) -> Entity:
    """Rows of this number of sentences, in chunks of about four."""
    world.table("id bigint, body text")
    world.insert(*[(n, long(n, count)) for n, count in enumerate(sentences)])
    item = world.declare(include=["body"], chunk={"tokens": 64}, partitions={"count": 1})
    world.texts(item)
    return item


def chunks_by_row(world: World) -> dict[int, int]:
    return dict(world.sql(f"select id, count(*) from {SCHEMA}.item_vectors_1 group by id"))


def test_a_row_with_more_chunks_than_the_limit_is_shown_once_it_is_whole(world: World) -> None:
    item = chunked(world, 40, 40)
    rounds = []
    while (done := world.vectors(item, limit=3)).counts.encoded:
        assert done.counts.encoded <= 3
        rounds.append(chunks_by_row(world))
    # the texts of one row after those of the other, and no part of a row before all of it
    whole = rounds[-1]
    assert [*rounds[0]] == []
    assert all(shown.items() <= whole.items() for shown in rounds)
    assert len(world.encoder.encoded) == len(set(world.encoder.encoded)) == sum(whole.values())


def test_a_run_that_met_its_limit_is_not_finished(world: World) -> None:
    item = chunked(world, 1, 1, 1)
    assert not world.vectors(item, limit=2).finished
    assert world.vectors(item, limit=2).finished


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 9, 12, 1_000])
def test_a_run_encodes_as_many_texts_as_its_plan_says(world: World, limit: int) -> None:
    item = chunked(world, 1, 9, 17, 1, 30, 2, 9)
    planned = world.plan(item, limit=limit)

    done = world.vectors(item, limit=limit).counts

    assert planned.sets[0].encode == done.encoded
    assert planned.sets[0].tokens == done.tokens


def test_vectors_that_the_cache_has_do_not_count_against_the_limit(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(10)])
    item = world.declare(partitions={"count": 1})
    world.run(item)
    world.insert(*[(100 + n, f"thing {n}") for n in range(10)])
    world.insert(*[(200 + n, f"new {n // 2}") for n in range(10)])

    read = world.texts(item).counts
    counts = read + world.vectors(item, limit=3).counts

    # three texts, that two rows each have
    assert (counts.encoded, counts.reused) == (3, 10 + 3)


def test_a_row_of_which_the_limit_leaves_a_part_gets_no_vector_at_all(world: World) -> None:
    world.table("id bigint, body text")
    world.insert((1, long(1, 40)))
    item = world.declare(include=["body"], chunk={"tokens": 64}, partitions={"count": 1})
    world.run(item)
    # new, with a first chunk that is known, after another that takes the limit
    world.insert((2, "short"), (3, long(1, 20) + " And ends otherwise." * 20))
    world.texts(item)

    assert world.vectors(item, limit=1).counts.encoded == 1
    assert 3 not in chunks_by_row(world)

    assert world.vectors(item).counts.reused > 0


@pytest.mark.usefixtures("small_windows")
def test_a_limit_does_not_lose_vectors_that_move_to_later_windows(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)])
    item = world.declare(partitions={"count": 1})
    world.run(item)
    world.encoder.encoded.clear()
    world.sql(
        "update staging.stg_item set name = case when id < 30 then 'new ' || id"
        " else 'thing ' || id - 30 end"
    )
    world.texts(item)

    world.vectors(item, limit=10)
    world.vectors(item)

    assert sorted(world.encoder.encoded) == sorted(f"name: new {n}" for n in range(30))


def test_a_plan_with_a_limit_goes_by_the_partitions_that_rows_are_about_to_have(
    world: World,
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, "word " * (n + 1)) for n in range(30)])
    world.texts(world.declare(partitions={"count": 8}))
    item = world.declare(partitions={"count": 3})
    (planned,) = world.plan(item, limit=5).sets
    world.texts(item)
    done = world.vectors(item, limit=5).counts
    assert (planned.encode, planned.tokens) == (done.encoded, done.tokens)
