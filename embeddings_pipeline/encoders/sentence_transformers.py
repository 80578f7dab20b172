"""Encodes with a sentence-transformers model on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

import numpy as np

from embeddings_pipeline.encoders.base import Vector, Vectors
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


class SentenceTransformersEncoder:
    """A local model, loaded when it is first used. One thread encodes at a time."""

    def __init__(
        self, identity: ModelIdentity, folder: Path, *, device: str, batch_size: int
    ) -> None:
        self._identity = identity
        self._folder = folder
        self._wanted_device = device
        self._batch_size = batch_size
        self._lock = Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self._identity

    @cached_property
    def device(self) -> str:
        """Where it computes. Raises ConfigurationError for a device that is not there."""
        import torch

        wanted = self._wanted_device
        cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
        present = ["cpu", *(f"cuda:{n}" for n in range(cuda))]
        if torch.backends.mps.is_available():
            present.append("mps")
        if wanted == "auto":
            return "cuda:0" if cuda else present[-1]
        resolved = "cuda:0" if wanted == "cuda" else wanted
        if resolved not in present:
            raise ConfigurationError(
                f"EMBEDDING_DEVICE {wanted!r} is not on this machine (devices: auto,"
                f" {', '.join(present)})"
            )
        return resolved

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        with self._lock:
            _ = self._model

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts, shape (texts, dimension), in their order."""
        if not texts:
            return np.empty((0, self._identity.dimension), np.float32)
        with self._lock:
            vectors = self._model.encode_document(
                list(texts), batch_size=self._batch_size, show_progress_bar=False
            )
        return self._finish(cast(Vectors, vectors))

    def encode_query(self, text: str) -> Vector:
        """The vector of one query, shape (dimension,)."""
        with self._lock:
            vectors = self._model.encode_query([text], show_progress_bar=False)
        return cast(Vector, self._finish(cast(Vectors, vectors))[0])

    def _finish(self, vectors: Vectors) -> Vectors:
        if vectors.shape[1] < self._identity.dimension:
            raise ConfigurationError(
                f"model {self._identity.model!r} gives {vectors.shape[1]} dimensions, not the"
                f" {self._identity.dimension} that its files and its vector set say"
            )
        shortened = vectors[:, : self._identity.dimension].astype(np.float32, copy=False)
        if shortened.shape[1] < vectors.shape[1] and self._identity.normalized:
            shortened /= np.linalg.norm(shortened, axis=1, keepdims=True)
        return shortened

    @cached_property
    def _model(self) -> SentenceTransformer:
        device = self.device
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logger.info("loading %s on %s", self._identity.model, device)
        try:
            return SentenceTransformer(
                str(self._folder),
                device=device,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        # corrupt weights, unknown parts and missing packages each raise a kind of their own
        except Exception as error:
            raise ConfigurationError(
                f"model {self._identity.model!r} in {self._folder} cannot be loaded: {error}"
            ) from error
