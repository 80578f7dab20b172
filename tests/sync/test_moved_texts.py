"""Texts that move to other rows take their vectors along: none is encoded a second time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from embeddings_pipeline.errors import DeletesRefused, EmbeddingsError
from tests.support.databases import Templates
from tests.support.world import SCHEMA, World, plan_and_run


@pytest.fixture
def things(world: World, templates: Templates) -> World:
    """A hundred current rows."""
    templates.restore(world, encode_things)
    return world


def encode_things(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(100)])
    world.run(world.declare())


def assert_each_row_has_its_vector(world: World) -> None:
    rows = world.sql("select id::text, name from staging.stg_item")
    assert world.view() == {(row_id, 0): f"name: {name}" for row_id, name in rows}
    world.assert_vectors_are_of_their_texts()


def test_rows_that_come_back_under_new_ids_keep_their_vectors(
    things: World, small_windows: None
) -> None:
    things.sql("update staging.stg_item set id = id + 10000")

    planned = plan_and_run(things, things.declare(), allow_deletes=True)

    assert (planned.sets[0].reusable, planned.sets[0].encode) == (100, 0)
    assert things.encoder.encoded == []
    assert_each_row_has_its_vector(things)


def test_new_ids_whose_deletes_were_refused_at_first_keep_their_vectors(things: World) -> None:
    things.sql("update staging.stg_item set id = id + 10000")
    with pytest.raises(DeletesRefused):
        things.texts(things.declare())

    counts = things.run(things.declare(), allow_deletes=True)

    assert counts["encoded"] == 0
    assert things.encoder.encoded == []
    assert_each_row_has_its_vector(things)


def test_chunks_that_a_row_loses_in_a_pass_that_is_refused_are_not_lost(world: World) -> None:
    said = " ".join(f"Sentence number {n} says a thing." for n in range(30))
    world.table("id bigint, body text")
    world.insert((1, said), (2, "short"), *[(n, f"row {n}") for n in range(3, 13)])
    item = world.declare(include=["body"], chunk={"tokens": 64}, partitions={"count": 1})
    world.run(item)
    world.encoder.encoded.clear()
    world.sql("update staging.stg_item set body = case id when 1 then 'short' else %s end", said)
    world.sql("delete from staging.stg_item where id > 2")
    with pytest.raises(DeletesRefused):
        world.texts(item)

    world.run(item, allow_deletes=True)

    assert world.encoder.encoded == []
    world.assert_vectors_are_of_their_texts()


def test_a_vector_that_another_row_waits_for_outlives_what_its_row_inherits(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(300)])
    item = world.declare()
    world.run(item)
    world.encoder.encoded.clear()
    # ids that are positions, with the first thirty rows gone: all others move up
    world.sql("delete from staging.stg_item where id < 30")
    world.sql("update staging.stg_item set id = id - 30")

    planned = plan_and_run(world, item)

    assert (planned.sets[0].encode, planned.sets[0].reusable) == (0, 270)
    assert world.encoder.encoded == []
    assert_each_row_has_its_vector(world)


def test_sets_of_one_model_encode_a_text_once(things: World) -> None:
    things.insert((200, "another"), (201, "one more"))

    planned = plan_and_run(things, things.declare(storage="halfvec"))

    assert [(s.encode, s.reusable) for s in planned.sets] == [(2, 0), (0, 102)]


def test_chunks_under_a_new_id_keep_their_vectors_and_the_filters_of_their_row(
    world: World,
) -> None:
    world.table("id bigint, body text, stock int")
    world.insert((1, " ".join(f"Sentence number {n} says a thing." for n in range(30)), 5))
    item = world.declare(include=["body"], chunk={"tokens": 64}, filters=["stock"])
    world.run(item)
    chunks = len(world.view())
    world.encoder.encoded.clear()
    world.sql("update staging.stg_item set id = 2, stock = 6")

    planned = plan_and_run(world, item, allow_deletes=True)

    assert planned.sets[0].reusable == chunks > 3
    assert world.sql(f"select distinct id, stock from {SCHEMA}.item_embeddings") == [(2, 6)]
    world.assert_vectors_are_of_their_texts()


def test_chunks_that_a_row_loses_are_taken_over_by_the_row_that_says_them_now(
    world: World,
) -> None:
    said = [" ".join(f"Sentence {n} of {row} says a thing." for n in range(30)) for row in "abc"]
    world.table("id bigint, body text")
    world.insert((1, said[0]), (2, said[1]), (3, None), (4, "short"))
    item = world.declare(include=["body"], chunk={"tokens": 64}, partitions={"count": 1})
    world.run(item)
    world.encoder.encoded.clear()
    # as under ids that are positions: texts move on by two rows, and rows shrink to nothing
    world.sql(
        "update staging.stg_item set body = case id when 3 then %s when 4 then %s end", *said[:2]
    )

    planned = plan_and_run(world, item)

    assert planned.sets[0].reusable > 8
    assert world.encoder.encoded == []
    world.assert_vectors_are_of_their_texts()


def test_a_text_that_its_row_has_no_more_is_left_to_a_set_of_halves(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "wanderer"), (2, None))
    item = world.declare(storage="halfvec")
    world.run(item)
    world.encoder.encoded.clear()
    world.sql("update staging.stg_item set name = case id when 2 then 'wanderer' end")

    assert plan_and_run(world, item).sets[0].reusable == 1
    assert world.encoder.encoded == []


def test_a_set_that_is_being_built_keeps_the_vectors_of_rows_with_new_ids(things: World) -> None:
    item = things.declare()
    things.use(things.encoder.revised("r2"))
    things.texts(item)
    things.vectors(item)
    things.encoder.encoded.clear()
    things.sql("update staging.stg_item set id = id + 10000 where id < 40")

    # the live set, whose model is gone, is frozen but does not lose what it has
    assert things.texts(item).reused == 80
    things.vectors(item)

    assert things.encoder.encoded == []
    for table in ("item_vectors_1", "item_vectors_2"):
        ((rows,),) = things.sql(f"select count(*) from {SCHEMA}.{table} where id >= 10000")
        assert rows == 40


def test_searches_find_rows_under_new_ids_all_the_while(things: World) -> None:
    """What has a vector under another id is projected before the old rows go."""
    seen: list[int] = []
    things.sql("update staging.stg_item set id = id + 10000")

    things.texts(
        things.declare(max_delete_share=1), report=lambda _: seen.append(len(things.view()))
    )

    assert min(seen) == 100
    assert len(things.view()) == 100


def test_texts_that_all_move_one_row_on_keep_their_vectors(
    things: World, small_windows: None
) -> None:
    things.sql("update staging.stg_item set id = id + 1001")
    things.sql("update staging.stg_item set id = id - 1000")
    things.insert((0, "first"))

    planned = plan_and_run(things, things.declare())

    assert (planned.sets[0].reusable, planned.sets[0].encode) == (100, 1)
    assert things.encoder.encoded == ["name: first"]
    assert_each_row_has_its_vector(things)


def test_texts_that_are_swapped_between_windows_keep_their_vectors(
    things: World, small_windows: None
) -> None:
    things.sql("update staging.stg_item set name = 'thing ' || 99 - id")

    planned = plan_and_run(things, things.declare())

    assert (planned.sets[0].reusable, planned.sets[0].encode) == (100, 0)
    assert things.encoder.encoded == []
    assert_each_row_has_its_vector(things)


@pytest.mark.usefixtures("small_windows")
def test_texts_that_moved_keep_their_vectors_whatever_ends_the_run(things: World) -> None:
    item = things.declare(partitions={"count": 1})
    things.sql("update staging.stg_item set name = 'thing ' || (id + 50) % 100 where id > 0")
    things.sql("update staging.stg_item set name = 'new' where id = 0")
    # like one that was killed before it gave them to other rows
    things.texts(item, force=True)

    def gone(texts: Sequence[str]) -> None:
        raise EmbeddingsError("the provider is gone")

    things.encoder.before = gone
    with pytest.raises(EmbeddingsError, match="gone"):
        things.vectors(item)
    things.encoder.before = lambda texts: None

    things.run(item)

    assert things.encoder.encoded == ["name: new"]
    assert_each_row_has_its_vector(things)


def test_texts_that_moved_between_partitions_keep_their_vectors_in_a_run_of_some(
    things: World,
) -> None:
    item = things.declare()
    things.sql("update staging.stg_item set name = 'thing ' || (id + 50) % 100 where id > 0")
    things.sql("update staging.stg_item set name = 'new' where id = 0")
    keys = item.partitions.keys()
    (planned,) = things.plan(item, keys=keys[:1]).sets

    given = things.texts(item, keys=keys[:1]).reused
    done = things.vectors(item, keys=keys[:1]).counts

    assert (planned.reusable, planned.encode) == (given + done.reused, done.encoded)
    assert things.run(item)["encoded"] + done.encoded == 1
    assert things.encoder.encoded == ["name: new"]
    assert_each_row_has_its_vector(things)
