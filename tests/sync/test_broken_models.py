"""A model that fails on everything or nearly so, or a database that is gone: no fault of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import EmbeddingsError
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World, refusing


@pytest.mark.parametrize("bad", [float("nan"), 0.0])
def test_a_model_that_gives_no_vector_of_anything_quarantines_nothing(
    world: World, bad: float
) -> None:
    class Broken(WordsEncoder):
        def _vector(self, text: str) -> Vector:
            return super()._vector(text) * bad

    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(20)])
    item = world.declare()
    world.run(item)
    world.use(Broken(replace(world.encoder.identity, revision="r2")))
    with pytest.raises(EmbeddingsError, match=r"no usable vector for any text \(the vector is"):
        world.vectors(item)
    assert world.sql(f"select * from {SCHEMA}.quarantine") == []


def test_a_model_whose_answers_mark_every_text_as_failed_quarantines_nothing(
    world: World,
) -> None:
    class Refusing(WordsEncoder):
        def encode_documents(self, texts: Sequence[str]) -> Encodings:
            made = super().encode_documents(texts)
            return replace(made, failures={n: "refused" for n, _ in enumerate(texts)})

    world.use(Refusing())
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"))
    item = world.declare()
    world.texts(item)
    with pytest.raises(EmbeddingsError, match=r"no usable vector for any text \(refused\)"):
        world.vectors(item)
    assert world.sql(f"select * from {SCHEMA}.quarantine") == []


def test_a_set_whose_model_failed_on_all_rows_is_not_published(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"))
    item = world.declare()
    world.run(item)
    world.use(refusing(world, "name"))
    world.vectors(item)

    result = world.publish(item, explicit=True)

    assert not result.flipped
    assert result.reasons[0].startswith("set 2: its model failed on all 2 rows: ")
    assert len(world.view()) == 2


@pytest.mark.parametrize(("share", "flips"), [(0.5, False), (0.7, True)])
def test_a_set_that_would_hide_too_many_rows_is_not_published(
    world: World, share: float, flips: bool
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "odd one"), (2, "odd two"), (3, "even"))
    item = world.declare(max_delete_share=share)
    world.run(item)
    world.use(refusing(world, "odd"))
    world.vectors(item)

    result = world.publish(item)

    assert result.flipped is flips
    assert len(world.view()) == (1 if flips else 3)
    if not flips:
        assert result.reasons[0].startswith("set 2: 2 of the 3 rows that set 1 shows have no")


def test_a_database_that_goes_while_the_model_is_asked_is_no_bad_row(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    lost = [
        psycopg.OperationalError("the limits of requests are kept in a database, which is gone")
    ]

    def gone(texts: Sequence[str]) -> None:
        if lost:
            raise lost.pop()

    world.encoder.before = gone
    counts = world.run(world.declare())
    assert (counts["encoded"], counts["quarantined"]) == (1, 0)
