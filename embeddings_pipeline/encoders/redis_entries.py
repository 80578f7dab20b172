"""What stands in Redis for one vector: its key, its field, and its bytes with a digest."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from embeddings_pipeline.encoders.base import Kind
from embeddings_pipeline.entities.model import ModelIdentity

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
