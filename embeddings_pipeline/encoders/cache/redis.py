"""A cache of vectors in Redis, shared by all processes.

A text has one key for each kind, `ep:document:<hash>` or `ep:query:<hash>`. The key holds a Redis
hash with a field for each model. A field's value is the vector as little-endian float32, followed
by a short digest that detects values written by other software.

Deleting two keys of known names therefore removes a text for all models, without a scan and
without an index of entries. The drawback: the TTL belongs to the key, not to the field, and
restarts when another model encodes the same text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np
from pydantic import SecretStr

from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.encoders.encoder import Kind
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    from redis.asyncio import Redis


T = TypeVar("T")

_KEYS_PER_REQUEST = 500


@dataclass(frozen=True)
class ServerStats:
    """Statistics of the Redis server over all its users: keys of this database, memory, and
    lookups with and without a result since the server started."""

    keys: int
    memory_bytes: int
    hits: int
    misses: int


class RedisCache:
    """Caches the bytes of vectors by text hash; `seconds` is the lifetime of each kind.

    Only `clear` raises: a Redis that is down, slow or damaged is bypassed. Reading and writing have
    separate circuit breakers, since a Redis that is out of memory can still be read.
    """

    def __init__(self, url: SecretStr, seconds: Mapping[Kind, int]) -> None:
        self._client = connect(url)
        self._seconds = seconds
        self.read_breaker = CircuitBreaker("reading from Redis (EMBEDDING_REDIS_URL)")
        self.write_breaker = CircuitBreaker("writing to Redis (EMBEDDING_REDIS_URL)")
        # an ACL may forbid INFO and DBSIZE
        self._stats_breaker = CircuitBreaker(
            "asking Redis for INFO and DBSIZE (EMBEDDING_REDIS_URL)"
        )

    def read(self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the valid entries of the model that are present, by text hash."""
        found: dict[bytes, bytes] = {}
        for some in _in_batches(hashes):
            found |= self.read_breaker.run(partial(self._read, kind, model, some)) or {}
        return found

    def _read(
        self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        answers = _call(self._hget(kind, model, hashes))
        found, invalid = {}, []
        for text_hash, answer in zip(hashes, answers, strict=True):
            value = (
                unpack_entry(answer, kind, text_hash, model) if isinstance(answer, bytes) else None
            )
            if value is not None:
                found[text_hash] = value
            elif isinstance(answer, Exception) and not _is_wrong_type(answer):
                raise answer
            elif answer is not None:
                invalid.append(key_of(kind, text_hash))
        if invalid:
            # with the write breaker: a read-only Redis must not stop the reads
            self.write_breaker.run(partial(self._unlink, invalid))
        return found

    async def _hget(
        self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]
    ) -> list[object]:
        async with self._client.pipeline(transaction=False) as pipe:
            for text_hash in hashes:
                pipe.hget(key_of(kind, text_hash), field_of(model))
            return await pipe.execute(raise_on_error=False)

    def write(self, kind: Kind, model: ModelIdentity, values: Mapping[bytes, bytes]) -> None:
        """Store entries, replacing present ones."""
        if self.read_breaker.is_open:
            self.write_breaker.bypassed += 1
            return
        for some in _in_batches([*values]):
            part = {text_hash: values[text_hash] for text_hash in some}
            self.write_breaker.run(partial(self._write, kind, model, part))

    def _write(self, kind: Kind, model: ModelIdentity, values: Mapping[bytes, bytes]) -> None:
        _call(self._hset(kind, model, values))

    async def _hset(self, kind: Kind, model: ModelIdentity, values: Mapping[bytes, bytes]) -> None:
        # in one transaction, so that no key is left without a TTL
        async with self._client.pipeline(transaction=True) as pipe:
            for text_hash, value in values.items():
                entry = pack_entry(value, kind, text_hash, model)
                pipe.hset(key_of(kind, text_hash), field_of(model), entry)
                pipe.expire(key_of(kind, text_hash), self._seconds[kind])
            await pipe.execute()

    def evict(self, hashes: Collection[bytes]) -> bool:
        """Remove texts for all kinds and models. Returns whether Redis removed them."""
        keys = [key_of(kind, text_hash) for text_hash in hashes for kind in get_args(Kind)]
        done = [self.write_breaker.run(partial(self._unlink, some)) for some in _in_batches(keys)]
        return all(done)

    def _unlink(self, keys: Sequence[str]) -> bool:
        _call(self._client.unlink(*keys))
        return True

    def clear(self, pattern: str) -> int:
        """Remove the entries of models whose name matches. Returns the number of removed entries.

        Raises EmbeddingsError where Redis does not answer.
        """
        from redis import RedisError

        try:
            return sum(_call(self._clear(keys, pattern)) for keys in self._scan())
        except (RedisError, OSError) as error:
            raise EmbeddingsError(
                f"Redis (EMBEDDING_REDIS_URL) cannot be cleared: {type(error).__name__}: {error}"
            ) from None

    async def _clear(self, keys: Sequence[bytes | str], pattern: str) -> int:
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hkeys(key)
            answers = await pipe.execute(raise_on_error=False)
            removed = 0
            for key, fields in zip(keys, answers, strict=True):
                if isinstance(fields, Exception):
                    pipe.unlink(key)
                elif chosen := [f for f in fields if fnmatchcase(_model_of(f), pattern)]:
                    pipe.hdel(key, *chosen)
                    removed += len(chosen)
            await pipe.execute()
        return removed

    def _scan(self) -> Iterator[list[bytes | str]]:
        for kind in get_args(Kind):
            cursor, more = 0, True
            while more:
                cursor, keys = _call(self._client.scan(cursor, f"ep:{kind}:*", _KEYS_PER_REQUEST))
                yield keys
                more = cursor != 0

    def server(self) -> ServerStats | None:
        """Return the server's statistics; None where the server does not answer."""
        return (
            None
            if self.read_breaker.is_open
            else self._stats_breaker.run(lambda: _call(self._server()))
        )

    async def _server(self) -> ServerStats:
        info = await self._client.info()
        return ServerStats(
            await self._client.dbsize(),
            info["used_memory"],
            info["keyspace_hits"],
            info["keyspace_misses"],
        )

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        _call(self._client.aclose())


def _model_of(field: bytes) -> str:
    return field.decode(errors="replace").partition(" ")[0]


def _is_wrong_type(error: Exception) -> bool:
    return str(error).startswith("WRONGTYPE")


def _in_batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _KEYS_PER_REQUEST):
        yield items[start : start + _KEYS_PER_REQUEST]


# the longest time that a search waits for Redis, with the time to connect; the circuit breaker then
# skips Redis
_ANSWER_SECONDS = 0.5


def _call(work: Awaitable[T]) -> T:
    return deadline.call(work, _ANSWER_SECONDS)


def connect(url: SecretStr) -> Redis:
    """Return a client whose pooled connections are opened on first use.

    Raises ConfigurationError for an invalid URL, and where the package redis is missing.
    """
    try:
        from redis.asyncio import Redis
    except ImportError:
        raise ConfigurationError(
            "EMBEDDING_REDIS_URL is set, but the package redis is not installed: pip install"
            " 'embeddings-pipeline[redis]'"
        ) from None
    try:
        return Redis.from_url(url.get_secret_value(), socket_timeout=_ANSWER_SECONDS)
    except ValueError:
        # the client's message may quote the URL, and with it the password
        raise ConfigurationError(
            "EMBEDDING_REDIS_URL is not a URL like redis://user:password@host:6379/0, rediss://…"
            " or unix://path"
        ) from None


_DIGEST_BYTES = 8
# allowed deviation of a normalized vector's length from 1
_TOLERANCE = 1e-3


def key_of(kind: Kind, text_hash: bytes) -> str:
    """Return the key of a text."""
    return f"ep:{kind}:{text_hash.hex()}"


def field_of(model: ModelIdentity) -> str:
    """Return the field of a model: all that decides its vectors; the name comes first."""
    return " ".join(
        (
            model.model,
            model.revision,
            str(model.dimension),
            str(model.max_tokens),
            model.provider,
            model.document_prompt,
        )
    )


def pack_entry(value: bytes, kind: Kind, text_hash: bytes, model: ModelIdentity) -> bytes:
    """Return the entry that stores a vector's bytes."""
    return value + _digest(value, kind, text_hash, model)


def unpack_entry(entry: bytes, kind: Kind, text_hash: bytes, model: ModelIdentity) -> bytes | None:
    """Return the vector's bytes; None where the entry is not a valid one of this text and model."""
    value, digest = entry[:-_DIGEST_BYTES], entry[-_DIGEST_BYTES:]
    if digest != _digest(value, kind, text_hash, model) or not _is_vector(value, model):
        return None
    return value


def _digest(value: bytes, kind: Kind, text_hash: bytes, model: ModelIdentity) -> bytes:
    place = f"{key_of(kind, text_hash)} {field_of(model)} ".encode()
    return blake2b(place + value, digest_size=_DIGEST_BYTES).digest()


def _is_vector(value: bytes, model: ModelIdentity) -> bool:
    if len(value) != 4 * model.dimension:
        return False
    vector = np.frombuffer(value, "<f4")
    if not np.isfinite(vector).all() or not vector.any():
        return False
    return not model.normalized or abs(float(np.linalg.norm(vector.astype("f8"))) - 1) < _TOLERANCE


logger = logging.getLogger(__name__)


# pause after a failure before the next try
_PAUSE_SECONDS = 5.0


class CircuitBreaker:
    """Runs calls to an optional service, and skips them for some seconds after a failure.

    `errors` counts failures. `bypassed` counts skipped calls.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failing = False
        self._retry_at = 0.0
        self.errors = 0
        self.bypassed = 0

    @property
    def is_open(self) -> bool:
        """Whether calls are skipped now."""
        return time.monotonic() < self._retry_at

    def run(self, work: Callable[[], T]) -> T | None:
        """Return the result of the work; None where it fails or is skipped."""
        if self.is_open:
            self.bypassed += 1
            return None
        try:
            result = work()
        # the client may raise any exception for a malformed answer
        except Exception as error:
            self._fail(error)
            return None
        if self._failing:
            logger.info("%s works again", self._name)
        self._failing = False
        return result

    def _fail(self, error: Exception) -> None:
        self.errors += 1
        self._retry_at = time.monotonic() + _PAUSE_SECONDS
        if not self._failing:
            logger.warning(
                "%s does not work and is left out until it does: %s: %s",
                self._name,
                type(error).__name__,
                error,
            )
        self._failing = True
