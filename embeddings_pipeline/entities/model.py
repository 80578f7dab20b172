"""The identity of a model, and the types of vectors and of their snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, TypeAlias

import numpy as np


@dataclass(frozen=True)
class ModelIdentity:
    """All that decides the vectors of a model. Vectors of equal identities are comparable.

    `revision` is the sha256 of the weights, or the provider's name of the model. `max_tokens` is
    the most tokens that the model reads of a text. `document_prompt` is put before each document;
    prompts in the model's own files are part of `revision` instead. `query_prompt` is put before
    each query; it does not change the vectors of documents, so it does not make identities
    different.
    """

    provider: str
    model: str
    revision: str
    dimension: int
    max_tokens: int
    normalized: bool
    document_prompt: str = ""
    query_prompt: str = field(default="", compare=False)

    @classmethod
    def of(cls, row: Any) -> Self:
        """The identity in an object that has all its fields."""
        return cls(**{own.name: getattr(row, own.name) for own in fields(cls)})


# float32, shapes (texts, dimension) and (dimension,)
Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Vector: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
# the index of a snapshot: exact search; or faster on many rows: lists, a graph
SnapshotType: TypeAlias = Literal["flat", "ivf", "hnsw"]
