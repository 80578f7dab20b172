"""Encodes texts so that a bad one fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from embeddings_pipeline.encoders.base import Vector, Vectors
from embeddings_pipeline.errors import EmbeddingsError, RowError

# a text that every encoder can take: where it fails too, the fault is not in the rows
_PROBE = "probe"

Encode = Callable[[Sequence[str]], Vectors]


def encode_each(encode: Encode, texts: Sequence[str]) -> list[Vector | RowError]:
    """A vector for each text, or why it has none; a failing batch is bisected.

    Raises what the encoder raised where it fails on everything.
    """
    try:
        vectors = encode(texts)
        if len(vectors) != len(texts):
            raise RowError(f"the encoder gave {len(vectors)} vectors for {len(texts)} texts")
    except EmbeddingsError as error:
        if not isinstance(error, RowError):
            raise
        return _bisect(encode, texts, error)
    # an encoder may raise anything for a text that it cannot take
    except Exception as error:
        return _bisect(encode, texts, error)
    return [_checked(vector) for vector in vectors]


def _bisect(encode: Encode, texts: Sequence[str], error: Exception) -> list[Vector | RowError]:
    if len(texts) > 1:
        half = len(texts) // 2
        return [*encode_each(encode, texts[:half]), *encode_each(encode, texts[half:])]
    try:
        encode([_PROBE])
    except Exception:
        raise error from None
    return [RowError(f"{type(error).__name__}: {error}")]


def _checked(vector: Vector) -> Vector | RowError:
    if not np.isfinite(vector).all():
        return RowError("the vector is not finite")
    if not vector.any():
        return RowError("the vector is zero")
    return vector
