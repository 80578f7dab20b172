"""A bounded cache of vectors in this process, with a short lifetime."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from threading import Lock

from cachetools import TLRUCache

from embeddings_pipeline.encoders.encoder import Kind
from embeddings_pipeline.entities.model import ModelIdentity

_MAX_BYTES = 64 << 20

_Key = tuple[Kind, ModelIdentity, bytes]


class MemoryCache:
    """Caches the bytes of vectors by text hash; evicts the least recently used. Thread-safe.

    `seconds` is the lifetime of each kind. `max_bytes` limits the bytes of the vectors themselves.
    """

    def __init__(
        self,
        seconds: Mapping[Kind, int],
        max_bytes: int = _MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._entries: TLRUCache[_Key, bytes, float] = TLRUCache(
            max_bytes,
            ttu=lambda key, _, now: now + self._seconds[key[0]],
            timer=clock,
            getsizeof=len,
        )
        self._models: set[tuple[Kind, ModelIdentity]] = set()
        self._lock = Lock()

    def read(self, kind: Kind, model: ModelIdentity, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the entries of the model that are present, by text hash."""
        with self._lock:
            found = {h: self._entries.get((kind, model, h)) for h in hashes}
        return {h: value for h, value in found.items() if value is not None}

    def write(self, kind: Kind, model: ModelIdentity, values: Mapping[bytes, bytes]) -> None:
        """Store entries, replacing present ones."""
        if not self._seconds[kind]:
            return
        with self._lock:
            self._models.add((kind, model))
            for text_hash, value in values.items():
                self._entries[kind, model, text_hash] = value

    def evict(self, hashes: Collection[bytes]) -> None:
        """Remove texts for all kinds and models."""
        with self._lock:
            for kind, model in self._models:
                for text_hash in hashes:
                    self._entries.pop((kind, model, text_hash), None)

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()

    def size(self) -> tuple[int, int]:
        """Return the number of entries and the bytes of their vectors."""
        with self._lock:
            self._entries.expire()
            return len(self._entries), int(self._entries.currsize)
