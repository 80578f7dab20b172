"""Vectors kept in Redis, for all processes.

A text has one key for each kind, `ep:document:<hash>` or `ep:query:<hash>`: a Redis hash with a
field for each model; its value is the vector as little-endian float32 and a short digest, by which
what something else has written there is not believed. So a text is evicted, whatever
models have read it, by deleting two keys of known names, without a scan and without an index of
entries that could be lost. The price is that a key, not a field, has the TTL: it begins anew when
another model reads the same text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np
from pydantic import SecretStr

from embeddings_pipeline.encoders.encoder import Kind
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    from redis import Redis


T = TypeVar("T")

_KEYS_IN_A_TRIP = 500


@dataclass(frozen=True)
class ServerStats:
    """What Redis says of itself, all of its users together: keys of this database, memory, and
    keys that were found or not since it started."""

    keys: int
    memory_bytes: int
    hits: int
    misses: int


class RedisCache:
    """Entries are the bytes of vectors, by the hashes of their texts; `seconds` keeps each kind.

    Only `clear` raises: a Redis that is down, slow or full of rubbish is left out. Reading and
    writing fail apart, since a Redis without memory can still be read.
    """

    def __init__(self, url: SecretStr, seconds: Mapping[Kind, int]) -> None:
        self._client = connect(url)
        self._seconds = seconds
        self.reading = Breaker("reading from Redis (EMBEDDING_REDIS_URL)")
        self.writing = Breaker("writing to Redis (EMBEDDING_REDIS_URL)")
        # a user may be allowed all but these
        self._asking = Breaker("asking Redis for INFO and DBSIZE (EMBEDDING_REDIS_URL)")

    def read(self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those entries of the model that there are and can be its vectors, by hash."""
        found: dict[bytes, bytes] = {}
        for some in _in_trips(hashes):
            found |= self.reading.run(partial(self._read, kind, model, some)) or {}
        return found

    def _read(
        self, kind: Kind, model: ModelIdentity, hashes: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        with self._client.pipeline(transaction=False) as pipe:
            for text_hash in hashes:
                pipe.hget(key_of(kind, text_hash), field_of(model))
            answers = pipe.execute(raise_on_error=False)
        found, rubbish = {}, []
        for text_hash, answer in zip(hashes, answers, strict=True):
            value = unpacked(answer, kind, text_hash, model) if isinstance(answer, bytes) else None
            if value is not None:
                found[text_hash] = value
            elif isinstance(answer, Exception) and not _is_wrong_type(answer):
                raise answer
            elif answer is not None:
                rubbish.append(key_of(kind, text_hash))
        if rubbish:
            # what may only be read has the others all the same
            self.writing.run(partial(self._unlink, rubbish))
        return found

    def write(self, kind: Kind, model: ModelIdentity, values: Mapping[bytes, bytes]) -> None:
        """Keep these, in place of what was there."""
        if self.reading.is_open:
            self.writing.bypassed += 1
            return
        for some in _in_trips([*values]):
            part = {text_hash: values[text_hash] for text_hash in some}
            self.writing.run(partial(self._write, kind, model, part))

    def _write(self, kind: Kind, model: ModelIdentity, values: Mapping[bytes, bytes]) -> None:
        # in one transaction, so that none is left without its TTL
        with self._client.pipeline(transaction=True) as pipe:
            for text_hash, value in values.items():
                entry = packed(value, kind, text_hash, model)
                pipe.hset(key_of(kind, text_hash), field_of(model), entry)
                pipe.expire(key_of(kind, text_hash), self._seconds[kind])
            pipe.execute()

    def evict(self, hashes: Collection[bytes]) -> bool:
        """Forget these texts, whatever the kind and the model; whether that was done."""
        keys = [key_of(kind, text_hash) for text_hash in hashes for kind in get_args(Kind)]
        done = [self.writing.run(partial(self._unlink, some)) for some in _in_trips(keys)]
        return all(done)

    def _unlink(self, keys: Sequence[str]) -> bool:
        self._client.unlink(*keys)
        return True

    def clear(self, pattern: str) -> int:
        """Remove the entries of models whose name matches; returns how many there were.

        Raises EmbeddingsError where Redis cannot be asked.
        """
        from redis import RedisError

        try:
            return sum(self._clear(keys, pattern) for keys in self._scan())
        except (RedisError, OSError) as error:
            raise EmbeddingsError(
                f"Redis (EMBEDDING_REDIS_URL) cannot be cleared: {type(error).__name__}: {error}"
            ) from None

    def _clear(self, keys: Sequence[bytes | str], pattern: str) -> int:
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hkeys(key)
            answers = pipe.execute(raise_on_error=False)
            removed = 0
            for key, fields in zip(keys, answers, strict=True):
                if isinstance(fields, Exception):
                    pipe.unlink(key)
                elif chosen := [f for f in fields if fnmatchcase(_model_of(f), pattern)]:
                    pipe.hdel(key, *chosen)
                    removed += len(chosen)
            pipe.execute()
        return removed

    def _scan(self) -> Iterator[list[bytes | str]]:
        for kind in get_args(Kind):
            cursor, more = 0, True
            while more:
                cursor, keys = self._client.scan(cursor, f"ep:{kind}:*", _KEYS_IN_A_TRIP)
                yield keys
                more = cursor != 0

    def server(self) -> ServerStats | None:
        """How much it holds and how often that was asked for; None where it does not answer."""
        return None if self.reading.is_open else self._asking.run(self._server)

    def _server(self) -> ServerStats:
        info = self._client.info()
        return ServerStats(
            self._client.dbsize(),
            info["used_memory"],
            info["keyspace_hits"],
            info["keyspace_misses"],
        )

    def close(self) -> None:
        """Close the connections; they are taken anew when they are needed."""
        self._client.close()


def _model_of(field: bytes) -> str:
    return field.decode(errors="replace").partition(" ")[0]


def _is_wrong_type(error: Exception) -> bool:
    return str(error).startswith("WRONGTYPE")


def _in_trips(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _KEYS_IN_A_TRIP):
        yield items[start : start + _KEYS_IN_A_TRIP]


_CONNECT_SECONDS = 0.3
# a search waits for no more than this, once in a while
_ANSWER_SECONDS = 0.5


def connect(url: SecretStr) -> Redis:
    """A client with pooled connections, made when they are needed.

    Raises ConfigurationError for what is no URL, and where the package redis is missing.
    """
    try:
        from redis import Redis
    except ImportError:
        raise ConfigurationError(
            "EMBEDDING_REDIS_URL is set, but the package redis is not installed: pip install"
            " 'embeddings-pipeline[redis]'"
        ) from None
    try:
        return Redis.from_url(
            url.get_secret_value(),
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
        )
    except ValueError:
        # the client's message may quote the URL, and with it the password
        raise ConfigurationError(
            "EMBEDDING_REDIS_URL is not a URL like redis://user:password@host:6379/0, rediss://…"
            " or unix://path"
        ) from None


_DIGEST_BYTES = 8
# of a vector that a model makes of length 1
_TOLERANCE = 1e-3


def key_of(kind: Kind, text_hash: bytes) -> str:
    """The key of a text."""
    return f"ep:{kind}:{text_hash.hex()}"


def field_of(model: ModelIdentity) -> str:
    """All that makes two vectors of one text differ; the model stands before the first space."""
    return " ".join(
        (
            *(model.model, model.revision, str(model.dimension), str(model.max_tokens)),
            *(model.provider, model.document_prompt),
        )
    )


def packed(value: bytes, kind: Kind, text_hash: bytes, model: ModelIdentity) -> bytes:
    """The entry for a vector's bytes."""
    return value + _digest(value, kind, text_hash, model)


def unpacked(entry: bytes, kind: Kind, text_hash: bytes, model: ModelIdentity) -> bytes | None:
    """The vector's bytes, None where the entry is not one of this text and model."""
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


# after a failure, before it is tried again
_PAUSE_SECONDS = 5.0


class Breaker:
    """Runs one kind of work on a service that is not needed for the result to be right.

    `errors` counts the failures, `bypassed` the calls that were spared one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failing = False
        self._closed_at = 0.0
        self.errors = 0
        self.bypassed = 0

    @property
    def is_open(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._closed_at

    def run(self, work: Callable[[], T]) -> T | None:
        """What the work returns; None where it fails, or failed a moment ago."""
        if self.is_open:
            self.bypassed += 1
            return None
        try:
            result = work()
        # a server may answer anything at all, and the client then raises anything
        except Exception as error:
            self._fail(error)
            return None
        if self._failing:
            logger.info("%s works again", self._name)
        self._failing = False
        return result

    def _fail(self, error: Exception) -> None:
        self.errors += 1
        self._closed_at = time.monotonic() + _PAUSE_SECONDS
        if not self._failing:
            logger.warning(
                "%s does not work and is left out until it does: %s: %s",
                *(self._name, type(error).__name__, error),
            )
        self._failing = True
