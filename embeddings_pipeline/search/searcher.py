"""Answers search requests from the live vector set of an entity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.engine import Engine
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.search.requests import Answer, SearchRequest, SimilarRequest

# the vector of a query, by the model of this identity and no other
Encode: TypeAlias = Callable[[ModelIdentity, str], Vector]


class Searcher:
    """Searches entities; safe to be used by several threads at once.

    `encode` may gather the queries of concurrent requests; without it each is encoded by itself.
    """

    def __init__(self, engine: Engine, encode: Encode | None = None) -> None:
        self._engine = engine
        self._encode = encode or encode_one(engine.encoders)

    def search(self, request: SearchRequest) -> Answer:
        """The rows that answer the query best.

        Raises ConfigurationError where there is no such entity, column or model, or nothing is
        published yet; psycopg.Error where the database fails.
        """
        raise NotImplementedError

    def similar(self, request: SimilarRequest) -> Answer:
        """The rows nearest to a stored one, itself left out. Raises as `search` does, and where
        the row has no published vector."""
        raise NotImplementedError


def encode_one(encoders: Encoders) -> Encode:
    """Encodes each query when it comes. Raises ConfigurationError where the model is not to be
    had or does not take the query."""
    raise NotImplementedError
