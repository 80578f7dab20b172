"""The vectors of search queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import SearchRequest

# returns the vector of a text or of an image's bytes by the model of this identity
Encode: TypeAlias = Callable[[ModelIdentity, str | bytes], Vector]


def vector_of(request: SearchRequest, identity: ModelIdentity, encode: Encode) -> Vector:
    """Return the vector of a search: the given one, or the vector of its query.

    Raises ConfigurationError for a vector of another dimension, zero, or beyond float32.
    """
    if request.vector is None:
        return encode(identity, request.query or "")
    if len(request.vector) != identity.dimension:
        raise ConfigurationError(
            f"vector has {len(request.vector)} numbers, and the vectors of entity"
            f" {request.entity!r} have {identity.dimension}"
        )
    # float32 has a smaller range than the numbers of JSON
    with np.errstate(over="ignore"):
        vector = np.asarray(request.vector, dtype=np.float32)
    if not np.isfinite(vector).all() or not vector.any():
        raise ConfigurationError("vector is zero, or has a number beyond the range of float32")
    return vector


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
