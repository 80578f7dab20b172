"""Encoders with a cache in a Redis, as each process has them, and what they remember."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
from tests.support.redis_server import RedisServer
from tests.support.words import WORDS, WordsEncoder

OTHER = replace(WORDS, model="fake/other")
_opened: list[Encoders] = []


def encoders(redis: RedisServer | None, **settings: Any) -> Encoders:
    url = redis.url if redis else None
    made = {"embedding_redis_url": url, **settings}
    _opened.append(Encoders(Settings(_env_file=None, embedding_model=WORDS.model, **made)))
    return _opened[-1]


def close_all() -> None:
    """Close the connections of all encoders that `encoders` made."""
    while _opened:
        _opened.pop().cleanup()


def remembering(
    made: Encoders, model: str = WORDS.model, dimension: int | None = None
) -> CachedEncoder:
    return CachedEncoder(made.get(model, dimension), made.cache)


def encoder_of(
    redis: RedisServer | None, inner: WordsEncoder | None = None, **settings: Any
) -> CachedEncoder:
    made = encoders(redis, **settings)
    made.add(inner or WordsEncoder())
    return remembering(made)


def two_models(redis: RedisServer) -> Encoders:
    made = encoders(redis)
    made.add(WordsEncoder())
    made.add(WordsEncoder(OTHER))
    return made


def pump_and_hose(encoder: CachedEncoder) -> int:
    """How many of two documents were remembered; whichever, their vectors are right."""
    done = encoder.encode_documents(["pump", "hose"])
    assert np.array_equal(done.vectors, WordsEncoder().encode_query(["pump", "hose"]).vectors)
    return done.usage.cached
