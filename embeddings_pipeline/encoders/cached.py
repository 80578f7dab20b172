"""An encoder that remembers: texts that it has read already are spared the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from embeddings_pipeline.encoders.base import Encoder, Encodings, Kind, Seeing, Usage, Vector
from embeddings_pipeline.encoders.cache import Cache
from embeddings_pipeline.encoders.token_counts import TokenCount
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.entities.serialise import text_hash
from embeddings_pipeline.errors import ConfigurationError


class CachedEncoder:
    """Stands before another encoder. Where all texts of a call are known, that is not asked.

    `uncached` is the other encoder itself.
    """

    def __init__(self, inner: Encoder, cache: Cache) -> None:
        self.uncached = inner
        self._cache = cache

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self.uncached.identity

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self.uncached.device

    @property
    def token_count(self) -> TokenCount:
        """How many tokens the model reads of a text."""
        return self.uncached.token_count

    @property
    def seeing(self) -> Seeing:
        """The other encoder, for images as queries, which are not remembered. Raises
        ConfigurationError where it reads text alone."""
        if not isinstance(self.uncached, Seeing):
            raise ConfigurationError(
                f"model {self.identity.model!r} reads text alone: an image finds rows only of"
                " entities that declare `image`"
            )
        return self.uncached

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        self.uncached.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts that are to be found."""
        return self._encode("document", texts, self.uncached.encode_documents)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts to find others by."""
        return self._encode("query", texts, self.uncached.encode_query)

    def _encode(
        self, kind: Kind, texts: Sequence[str], encode: Callable[[Sequence[str]], Encodings]
    ) -> Encodings:
        hashes = [text_hash(text) for text in texts]
        wanted = dict(zip(hashes, texts, strict=True))
        found = self._cache.read(kind, self.identity, [*wanted])
        missing = [key for key in wanted if key not in found]
        made = Encodings(np.empty((0, self.identity.dimension), np.float32), Usage())
        if missing:
            made = encode([wanted[key] for key in missing])
        fresh = dict(zip(missing, made.vectors, strict=True))
        failed = {missing[index]: why for index, why in made.failures.items()}
        good = {key: v for key, v in fresh.items() if key not in failed and _is_good(v)}
        # vectors of another dimension fail here, before they are remembered
        vectors = _in_order(hashes, found | fresh, self.identity.dimension)
        if good:
            self._cache.write(kind, self.identity, good)
        return Encodings(
            vectors,
            made.usage + self._saved(_beyond(missing, hashes, texts)),
            {index: failed[key] for index, key in enumerate(hashes) if key in failed},
            made.stopped,
        )

    def _saved(self, texts: Sequence[str]) -> Usage:
        # counted again: a provider tells how many tokens a call had, not a text
        lengths = self.token_count.of(texts) if texts else []
        saved = sum(min(length, self.identity.max_tokens) for length in lengths)
        return Usage(cached=len(texts), saved_tokens=saved)


def _beyond(encoded: Sequence[bytes], hashes: Sequence[bytes], texts: Sequence[str]) -> list[str]:
    """The texts that are left when each encoded one is taken out once."""
    left, beyond = set(encoded), []
    for key, text in zip(hashes, texts, strict=True):
        if key in left:
            left.remove(key)
        else:
            beyond.append(text)
    return beyond


def _is_good(vector: Vector) -> bool:
    return bool(np.isfinite(vector).all() and vector.any())


def _in_order(hashes: Sequence[bytes], vectors: Mapping[bytes, Vector], dimension: int) -> Vector:
    ordered = np.empty((len(hashes), dimension), np.float32)
    for index, key in enumerate(hashes):
        ordered[index] = vectors[key]
    return ordered
