"""The scores of hybrid search, worked out again from what each way finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import hypot
from statistics import fmean, pstdev

import numpy as np
import pytest

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.store.search.lexical import idf
from tests.search.conftest import Search
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import World

KINDS = ("pump", "hose", "lamp", "valve", "shoe", "chair", "table", "cable")
LOOKS = ("red", "blue", "green", "small", "large", "old", "new", "cheap", "fine")
QUERY = "small red pump for the garden"


class Longer(WordsEncoder):
    """Documents have vectors of this length, and queries of length 1."""

    def __init__(self, length: float) -> None:
        super().__init__(replace(WORDS, normalized=False))
        self.length = length

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        found = super().encode_documents(texts)
        return replace(found, vectors=found.vectors * np.float32(self.length))


def counted(scores: Mapping[str, float], mean: float, deviation: float) -> dict[str, float]:
    return {i: max((s - mean) / deviation / 6 + 0.5, 0) ** 3 for i, s in scores.items()}


@pytest.mark.parametrize(
    ("metric", "length"), [("cosine", 1), ("l2", 1), ("l2", 2), ("ip", 1), ("ip", 2)]
)
def test_a_row_counts_by_how_far_its_scores_lie_above_the_mean_of_each_way(
    world: World, search: Search, metric: str, length: float
) -> None:
    names = [f"{look} {kind}" for look, kind in product(LOOKS, KINDS)]
    world.use(Longer(length))
    world.table("id bigint, name text")
    world.insert(*enumerate(names))
    world.run(world.declare(template="{name}", metric=metric))
    found: dict[str, dict[str, float]] = {}
    texts_with: Mapping[str, int] = {}
    for mode in ("dense", "text", "hybrid"):
        answer = search.answer(QUERY, mode=mode, top_k=len(names), exact=True)
        found[mode] = {hit.id: hit.score for hit in answer.results}
        texts_with = answer.words or texts_with
    near, by_words = found["dense"], found["text"]
    # the score of the query with itself
    best = 1.0
    if metric == "l2":
        near, best = {i: -((1 / score - 1) ** 2) for i, score in near.items()}, 0.0
    nearest = [*near.values()][:50]
    by_vector = counted(near, fmean(nearest), 0.15 * (max(best, *nearest) - fmean(nearest)))
    first = [*by_words.values()][:50]
    first += [0] * (50 - len(first))
    possible = sum(idf(len(names), texts) for texts in texts_with.values())
    in_words = counted(by_words, fmean(first), hypot(pstdev(first), 0.06 * possible))
    expected = {i: (score + in_words.get(i, 0)) / 2 for i, score in by_vector.items()}
    assert found["hybrid"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
