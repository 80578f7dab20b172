"""The vectors of search queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError

# returns the vector of a text or of an image's bytes by the model of this identity
Encode: TypeAlias = Callable[[ModelIdentity, str | bytes], Vector]


def query_encoder(encoders: Encoders) -> Encode:
    """Return a function that encodes each query by itself.

    The function raises ConfigurationError where the model is missing or rejects the query.
    """

    def encode(identity: ModelIdentity, query: str | bytes) -> Vector:
        encoder = CachedEncoder(encoders.for_identity(identity), encoders.cache)
        if isinstance(query, bytes):
            encodings = encoder.image_encoder.encode_image(query)
        else:
            encodings = encoder.encode_query([query])
        if encodings.failures:
            raise ConfigurationError(f"the query cannot be encoded: {encodings.failures[0]}")
        vector: Vector = encodings.vectors[0]
        return vector

    return encode
