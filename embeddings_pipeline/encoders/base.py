"""What every encoder is: a model with an identity, that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from embeddings_pipeline.entities.model import ModelIdentity

# float32, shapes (texts, dimension) and (dimension,)
Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Vector: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


class Encoder(Protocol):
    """Documents and queries are encoded apart: some models prefix them differently."""

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""

    @property
    def device(self) -> str:
        """Where it computes, like cpu or cuda:0."""

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts, shape (texts, dimension), in their order."""

    def encode_query(self, text: str) -> Vector:
        """The vector of one query, shape (dimension,)."""
