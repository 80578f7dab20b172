"""Encoders with a cache in a Redis, as each process has them."""

from __future__ import annotations

from typing import Any

from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
from tests.redis_server import RedisServer
from tests.words import WORDS, WordsEncoder

PRICED = {WORDS.model: 0.02}


def encoders(redis: RedisServer | None, **settings: Any) -> Encoders:
    url = redis.url if redis else None
    made = {"embedding_prices": PRICED, "embedding_redis_url": url, **settings}
    return Encoders(Settings(_env_file=None, embedding_model=WORDS.model, **made))


def encoder_of(
    redis: RedisServer | None, inner: WordsEncoder | None = None, **settings: Any
) -> CachedEncoder:
    made = encoders(redis, **settings)
    made.add(inner or WordsEncoder())
    return made.get(WORDS.model)
