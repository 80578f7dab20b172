"""The vectors that searches go by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError

# the vector of a text or of an image's bytes, by the model of this identity and no other
Encode: TypeAlias = Callable[[ModelIdentity, str | bytes], Vector]


def encode_one(encoders: Encoders) -> Encode:
    """Encodes each query when it comes. Raises ConfigurationError where the model is not to be
    had or does not take the query."""

    def encode(identity: ModelIdentity, query: str | bytes) -> Vector:
        encoder = CachedEncoder(encoders.identical(identity), encoders.cache)
        if isinstance(query, bytes):
            encodings = encoder.seeing.encode_image(query)
        else:
            encodings = encoder.encode_query([query])
        if encodings.failures:
            raise ConfigurationError(f"the query cannot be encoded: {encodings.failures[0]}")
        vector: Vector = encodings.vectors[0]
        return vector

    return encode
