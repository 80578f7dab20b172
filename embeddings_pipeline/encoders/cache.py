"""Vectors by the hashes of their texts: in this process, and in Redis where there is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np

from embeddings_pipeline.encoders.base import Kind, Vector
from embeddings_pipeline.encoders.memory_cache import MemoryCache
from embeddings_pipeline.encoders.redis_cache import RedisCache, ServerStats
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings


@dataclass(frozen=True)
class CacheStats:
    """What this process asked for and holds, and what Redis says of itself.

    `errors` counts failures of Redis and `bypassed` the calls that were spared one after those.
    """

    hits: int
    misses: int
    hit_rate: float | None
    errors: int
    bypassed: int
    entries: int
    memory_bytes: int
    redis: Literal["not configured", "not reached", "in use"]
    server: ServerStats | None


class Cache:
    """Remembers vectors for as long as EMBEDDING_CACHE_TTL and EMBEDDING_QUERY_CACHE_TTL say.

    It is never needed for a result to be right: whatever fails in Redis is a miss.
    """

    def __init__(self, settings: Settings) -> None:
        queries = settings.embedding_query_cache_ttl
        documents = settings.embedding_cache_ttl
        # nobody can evict from another's memory: what is erased there is gone after a short time
        self._memory = MemoryCache({"query": queries, "document": min(documents, queries)})
        url = settings.embedding_redis_url
        self._redis = RedisCache(url, {"query": queries, "document": documents}) if url else None
        self._hits = self._misses = 0
        self._lock = Lock()

    def read(
        self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]
    ) -> dict[bytes, Vector]:
        """The vectors of the model that are remembered, by hash; not to be written to."""
        found = self._read(kind, model, hashes)
        with self._lock:
            self._hits += len(found)
            self._misses += len(hashes) - len(found)
        return {text_hash: np.frombuffer(value, "<f4") for text_hash, value in found.items()}

    def _read(
        self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        found = self._memory.read(kind, model, hashes)
        missing = [text_hash for text_hash in hashes if text_hash not in found]
        if self._redis and missing:
            elsewhere = self._redis.read(kind, model, missing)
            self._memory.write(kind, model, elsewhere)
            found |= elsewhere
        return found

    def write(self, kind: Kind, model: ModelIdentity, vectors: Mapping[bytes, Vector]) -> None:
        """Remember these vectors."""
        values = {h: vector.astype("<f4", copy=False).tobytes() for h, vector in vectors.items()}
        self._memory.write(kind, model, values)
        if self._redis:
            self._redis.write(kind, model, values)

    def evict(self, hashes: Collection[bytes]) -> bool:
        """Forget these texts, whatever the kind and the model; False where Redis did not."""
        self._memory.evict(hashes)
        return self._redis is None or self._redis.evict(hashes)

    def clear(self, pattern: str) -> int:
        """Remove from Redis what models of these names have made; returns how many vectors.

        Raises ConfigurationError where there is no Redis, EmbeddingsError where it cannot be asked.
        """
        if self._redis is None:
            raise ConfigurationError(
                "EMBEDDING_REDIS_URL is not set: each process has its own cache, which ends with it"
            )
        self._memory.clear()
        return self._redis.clear(pattern)

    def stats(self) -> CacheStats:
        """The counters of this process, and one question to Redis."""
        server = self._redis.server() if self._redis else None
        entries, memory_bytes = self._memory.size()
        breakers = [self._redis.reading, self._redis.writing] if self._redis else []
        asked = self._hits + self._misses
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            hit_rate=self._hits / asked if asked else None,
            errors=sum(breaker.errors for breaker in breakers),
            bypassed=sum(breaker.bypassed for breaker in breakers),
            entries=entries,
            memory_bytes=memory_bytes,
            redis="in use" if server else "not reached" if self._redis else "not configured",
            server=server,
        )

    def close(self) -> None:
        """Forget what is in memory and close the connections."""
        self._memory.clear()
        if self._redis:
            self._redis.close()
