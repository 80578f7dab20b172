"""Vectors that were there before us, taken over."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_pipeline.errors import ConfigurationError, RunNeeded
from embeddings_pipeline.store.vectors.adoption import Foreign
from embeddings_pipeline.sync.adopt import adopt
from tests.support.world import SCHEMA, World


@pytest.fixture
def things(world: World) -> World:
    world.table("id bigint, name text, consent boolean")
    world.insert((1, "Pump", True), (2, "Hose", True), (3, "Pump", True), (4, None, True))
    return world


FOREIGN = Foreign("public", "old_vectors", "item_id", "content", "emb")


def old_vectors(world: World, *, wrong: bool = False) -> None:
    """What a script left: one text as it is now, one of before, one of no row."""
    world.sql("create table old_vectors (item_id text, content text, emb vector(64))")
    for row_id, text in (("1", "name: Pump"), ("2", "name: Old hose"), ("5", "name: Gone")):
        vector = world.encoder.encode_query(["else" if wrong else text]).vectors[0]
        as_text = "[" + ",".join(str(x) for x in np.asarray(vector)) + "]"
        world.sql("insert into old_vectors values (%s, %s, %s::vector)", row_id, text, as_text)


def test_vectors_of_the_same_text_and_model_are_adopted(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    old_vectors(things)

    adopted = adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")

    assert (adopted.rows, adopted.fitted) == (3, 1)
    things.encoder.encoded.clear()
    counts = things.run(item)
    assert things.encoder.encoded == ["name: Hose"]
    # rows 1 and 3 have one text
    assert (counts["encoded"], counts["reused"]) == (1, 2)
    things.assert_vectors_are_of_their_texts()


def test_vectors_of_another_model_are_not_adopted(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    old_vectors(things, wrong=True)
    with pytest.raises(ConfigurationError, match="is not this model's"):
        adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")
    assert things.sql(f"select * from {SCHEMA}.embedding_cache_1") == []


def test_a_table_without_the_named_column_is_refused(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    with pytest.raises(ConfigurationError, match="there is no such table"):
        adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")


def test_vectors_that_the_model_cannot_have_made_are_left(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    old_vectors(things)
    things.sql("alter table old_vectors alter column emb type vector")
    things.sql(
        "insert into old_vectors values ('2', 'name: Hose', array_fill(0, array[64])::vector),"
        " ('2', 'name: Hose', array_fill(3, array[64])::vector), ('2', 'name: Hose', '[1, 0]'),"
        " ('2', 'name: Hose', null)"
    )

    adopted = adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")

    assert (adopted.rows, adopted.fitted) == (7, 1)
    assert things.sql(f"select count(*) from {SCHEMA}.embedding_cache_1") == [(1,)]


def test_vectors_of_another_dimension_are_refused(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    things.sql("create table old_vectors (item_id text, content text, emb vector(2))")
    things.sql("insert into old_vectors values ('1', 'name: Pump', '[1, 0]')")
    with pytest.raises(ConfigurationError, match="have 2 dimensions, the model's 64"):
        adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")


def test_a_row_that_the_table_has_twice_is_taken_once(things: World) -> None:
    item = things.declare(include=["name"])
    things.texts(item)
    old_vectors(things)
    things.sql("insert into old_vectors select * from old_vectors")
    adopted = adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")
    assert (adopted.rows, adopted.fitted) == (6, 1)


def test_an_entity_that_was_never_run_takes_nothing_over_and_says_what_to_do(
    things: World,
) -> None:
    old_vectors(things)
    item = things.declare(include=["name"])
    with pytest.raises(RunNeeded, match=r"'item' has no texts yet.*`embeddings-pipeline run item`"):
        adopt(things.postgres, things.names_of(item), things.encoders, FOREIGN, "adopted")
