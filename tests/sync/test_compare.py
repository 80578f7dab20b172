"""Two sets compared before one takes the place of the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.sync.quality.compare import compare
from embeddings_pipeline.sync.quality.qrels import Qrels, ndcg, read_qrels, recall
from tests.support.words import WordsEncoder
from tests.support.world import World


class Refusing(WordsEncoder):
    """A model that refuses each query."""

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        return replace(super().encode_query(texts), failures={0: "too long"})


@pytest.fixture
def two_sets(world: World) -> World:
    world.table("id bigint, name text")
    things = ["red shoe", "red boot", "blue lamp", "blue light", "green hat", "green cap"]
    world.insert(*[(n, f"{thing} {n}") for n, thing in enumerate(things * 10)])
    item = world.declare(publish="manual", model="fake/words")
    world.texts(item)
    world.vectors(item)
    world.publish(item, explicit=True)
    # the first model stays at hand under its name
    world.encoders.add(WordsEncoder(replace(world.encoder.identity, model="fake/other")))
    return world


def test_a_set_agrees_with_one_of_the_same_vectors_and_less_with_another(two_sets: World) -> None:
    same = two_sets.declare(publish="manual", storage="halfvec")
    two_sets.vectors(same)
    result = compare(two_sets.postgres, two_sets.names_of(same), two_sets.encoders)
    assert (result.live, result.other, result.sample) == (1, 2, 60)
    assert result.overlap_at_10 > 0.95

    other = WordsEncoder(replace(two_sets.encoder.identity, revision="r2", model="fake/other"))
    two_sets.encoders.add(other)
    item = two_sets.declare(publish="manual", model="fake/other")
    two_sets.vectors(item)
    names = two_sets.names_of(item)
    assert compare(two_sets.postgres, names, two_sets.encoders).overlap_at_10 < 0.95


def test_qrels_measure_the_quality_of_each_set(two_sets: World, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps({"_id": "q1", "text": "name blue lamp 2"}) + "\n")
    judged = tmp_path / "test.tsv"
    judged.write_text("query-id\tcorpus-id\tscore\nq1\t2\t1\nq1\t20\t0\n")
    item = two_sets.declare(publish="manual", storage="halfvec")
    two_sets.vectors(item)
    qrels = read_qrels(queries, judged)
    result = compare(two_sets.postgres, two_sets.names_of(item), two_sets.encoders, qrels)
    assert [(q.ndcg_at_10, q.recall_at_100) for q in result.quality] == [(1.0, 1.0)] * 2


def test_a_query_that_a_model_cannot_encode_is_named(two_sets: World) -> None:
    item = two_sets.declare(publish="manual", storage="halfvec")
    two_sets.vectors(item)
    two_sets.encoders.add(Refusing())
    qrels = Qrels({"q1": "blue lamp"}, {"q1": {"2": 1}})
    with pytest.raises(ConfigurationError, match="query 'blue lamp' cannot be encoded: too long"):
        compare(two_sets.postgres, two_sets.names_of(item), two_sets.encoders, qrels)


def test_one_set_cannot_be_compared(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    item = world.declare()
    world.run(item)
    with pytest.raises(ConfigurationError, match="does not have two vector sets"):
        compare(world.postgres, world.names_of(item), world.encoders)


def test_the_measures_are_those_of_their_definitions() -> None:
    relevant = {"a": 2, "b": 1}
    assert ndcg(["a", "b"], relevant, 10) == 1.0
    # (1 / log2(2) + 2 / log2(4)) / (2 / log2(2) + 1 / log2(3))
    assert ndcg(["b", "x", "a"], relevant, 10) == pytest.approx(2 / (2 + 0.63093), abs=1e-4)
    assert ndcg(["x"], relevant, 10) == 0.0
    assert recall(["x", "b"], relevant, 100) == 0.5
