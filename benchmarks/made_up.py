"""Vectors drawn at random around some centres, and an encoder that gives them out by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from embeddings_pipeline.encoders.encoder import Encodings, Usage
from embeddings_pipeline.entities.model import Vectors
from tests.support.words import WORDS, WordsEncoder

_DIMENSION = 384


class MadeUpEncoder(WordsEncoder):
    """The n-th vector for the text `item n` and the query `query n`."""

    def __init__(self, documents: Vectors, queries: Vectors) -> None:
        super().__init__(replace(WORDS, dimension=_DIMENSION))
        self._documents, self._queries = documents, queries

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        return _numbered(self._documents, texts)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        return _numbered(self._queries, texts)


def made_up(rows: int, queries: int) -> tuple[Vectors, Vectors]:
    """Unit vectors of documents and of queries."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((1000, 32), np.float32)
    projection = random.standard_normal((32, _DIMENSION), np.float32)

    def draw(count: int) -> Vectors:
        spread = 0.7 * random.standard_normal((count, 32), np.float32)
        points = (centres[random.integers(0, len(centres), count)] + spread) @ projection
        points += 0.3 * random.standard_normal(points.shape, np.float32)
        return cast(Vectors, points / np.linalg.norm(points, axis=1, keepdims=True))

    return draw(rows), draw(queries)


def _numbered(vectors: Vectors, texts: Sequence[str]) -> Encodings:
    return Encodings(vectors[[int(text.split()[1]) for text in texts]], Usage(texts=len(texts)))
