"""An encoder with a cache: a text that was encoded before does not go through the model again.

Vectors are cached in this process, and in Redis where EMBEDDING_REDIS_URL is set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np

from embeddings_pipeline.encoders.cache.memory import MemoryCache
from embeddings_pipeline.encoders.cache.redis import RedisCache, ServerStats
from embeddings_pipeline.encoders.encoder import (
    Encoder,
    Encodings,
    ImageQueryEncoder,
    Kind,
    TokenCount,
    Usage,
)
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.entities.rendering import text_hash
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings


class CachedEncoder:
    """Wraps another encoder, `uncached`, and passes on only texts that are not in the cache."""

    def __init__(self, inner: Encoder, cache: Cache) -> None:
        self.uncached = inner
        self._cache = cache

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model. Does not load the model."""
        return self.uncached.identity

    @property
    def device(self) -> str:
        """The device of the model."""
        return self.uncached.device

    @property
    def token_count(self) -> TokenCount:
        """The token counter of the model."""
        return self.uncached.token_count

    @property
    def image_encoder(self) -> ImageQueryEncoder:
        """The wrapped encoder for images as queries, which are not cached.

        Raises ConfigurationError where the model reads only text.
        """
        if not isinstance(self.uncached, ImageQueryEncoder):
            raise ConfigurationError(
                f"model {self.identity.model!r} reads only text: search by image needs an entity"
                " that declares `image`"
            )
        return self.uncached

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""
        self.uncached.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of documents, from the cache where possible."""
        return self._encode("document", texts, self.uncached.encode_documents)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of queries, from the cache where possible."""
        return self._encode("query", texts, self.uncached.encode_query, self.identity.query_prompt)

    def _encode(
        self,
        kind: Kind,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], Encodings],
        prompt: str = "",
    ) -> Encodings:
        # the key of an entry has the document's prompt, and not the query's
        hashes = [text_hash(prompt + text) for text in texts]
        text_by_hash = dict(zip(hashes, texts, strict=True))
        found = self._cache.read(kind, self.identity, [*text_by_hash])
        missing = [key for key in text_by_hash if key not in found]
        made = Encodings(np.empty((0, self.identity.dimension), np.float32), Usage())
        if missing:
            made = encode([text_by_hash[key] for key in missing])
        fresh = dict(zip(missing, made.vectors, strict=True))
        failed = {missing[index]: why for index, why in made.failures.items()}
        good = {key: v for key, v in fresh.items() if key not in failed and _is_good(v)}
        # vectors of another dimension fail here, before they are cached
        vectors = _in_order(hashes, found | fresh, self.identity.dimension)
        if good:
            self._cache.write(kind, self.identity, good)
        return Encodings(
            vectors,
            made.usage + Usage(cached=len(texts) - len(missing)),
            {index: failed[key] for index, key in enumerate(hashes) if key in failed},
            made.stopped,
        )


def _is_good(vector: Vector) -> bool:
    return bool(np.isfinite(vector).all() and vector.any())


def _in_order(hashes: Sequence[bytes], vectors: Mapping[bytes, Vector], dimension: int) -> Vector:
    ordered = np.empty((len(hashes), dimension), np.float32)
    for index, key in enumerate(hashes):
        ordered[index] = vectors[key]
    return ordered


@dataclass(frozen=True)
class CacheStats:
    """The lookups and entries of this process, and the statistics of Redis.

    `errors` counts failures of Redis. `bypassed` counts calls that skipped Redis after a failure.
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
    """Caches vectors for EMBEDDING_CACHE_TTL and EMBEDDING_QUERY_CACHE_TTL seconds. Thread-safe.

    Results never depend on the cache: a failure of Redis counts as a miss.
    """

    def __init__(self, settings: Settings) -> None:
        queries = settings.embedding_query_cache_ttl
        documents = settings.embedding_cache_ttl
        # no process can evict from another's memory: erased texts expire there after a short time
        self._memory = MemoryCache({"query": queries, "document": min(documents, queries)})
        url = settings.embedding_redis_url
        self._redis = RedisCache(url, {"query": queries, "document": documents}) if url else None
        self._hits = self._misses = 0
        self._lock = Lock()

    def read(
        self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]
    ) -> dict[bytes, Vector]:
        """Return the cached vectors of the model by text hash, as read-only arrays."""
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
        """Cache these vectors by text hash."""
        values = {h: vector.astype("<f4", copy=False).tobytes() for h, vector in vectors.items()}
        self._memory.write(kind, model, values)
        if self._redis:
            self._redis.write(kind, model, values)

    def evict(self, hashes: Collection[bytes]) -> bool:
        """Remove texts for all kinds and models. Returns false where Redis did not remove them."""
        self._memory.evict(hashes)
        return self._redis is None or self._redis.evict(hashes)

    def clear(self, pattern: str) -> int:
        """Remove the vectors of models whose name matches the pattern from Redis.

        Returns the number of removed vectors. Raises ConfigurationError without Redis, and
        EmbeddingsError where Redis does not answer.
        """
        if self._redis is None:
            raise ConfigurationError(
                "EMBEDDING_REDIS_URL is not set: each process has only a cache of its own, which"
                " ends with the process"
            )
        self._memory.clear()
        return self._redis.clear(pattern)

    def stats(self) -> CacheStats:
        """Return the counters of this process and, by one request, of Redis."""
        server = self._redis.server() if self._redis else None
        entries, memory_bytes = self._memory.size()
        breakers = [self._redis.read_breaker, self._redis.write_breaker] if self._redis else []
        lookups = self._hits + self._misses
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            hit_rate=self._hits / lookups if lookups else None,
            errors=sum(breaker.errors for breaker in breakers),
            bypassed=sum(breaker.bypassed for breaker in breakers),
            entries=entries,
            memory_bytes=memory_bytes,
            redis="in use" if server else "not reached" if self._redis else "not configured",
            server=server,
        )

    def close(self) -> None:
        """Clear the memory and close the connections."""
        self._memory.clear()
        if self._redis:
            self._redis.close()
