"""Encodes with a sentence-transformers model on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

import numpy as np

from embeddings_pipeline.encoders.base import Vector, Vectors
from embeddings_pipeline.encoders.batching import by_tokens
from embeddings_pipeline.encoders.devices import device_for, dtype_for
from embeddings_pipeline.encoders.plain_bert import PlainBert, hush, is_plain_bert
from embeddings_pipeline.entities.chunking import count_tokens
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a local model computes: EMBEDDING_DEVICE, EMBEDDING_PRECISION, and the most texts and
    tokens (padding included) in one batch."""

    device: str = "auto"
    precision: str = "auto"
    batch_texts: int = 256
    batch_tokens: int = 4096


class SentenceTransformersEncoder:
    """A local model, loaded when it is first used. One thread encodes at a time."""

    def __init__(self, identity: ModelIdentity, folder: Path, options: Options) -> None:
        self._identity = identity
        self._folder = folder
        self._options = options
        self._lock = Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self._identity

    @cached_property
    def device(self) -> str:
        """Where it computes. Raises ConfigurationError for a device that is not there."""
        return device_for(self._options.device)

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        with self._lock:
            _ = self._model

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts, shape (texts, dimension), in their order."""
        if not texts:
            return np.empty((0, self._identity.dimension), np.float32)
        # the tokenizer of the pipeline stands in for the model's: lengths only have to sort
        lengths = [min(n, self._identity.max_tokens) for n in count_tokens(texts)]
        vectors = np.empty((len(texts), self._identity.dimension), np.float32)
        for batch in by_tokens(
            lengths, max_tokens=self._options.batch_tokens, max_texts=self._options.batch_texts
        ):
            vectors[batch] = self._finish(self._run([texts[index] for index in batch]))
        return vectors

    def encode_query(self, text: str) -> Vector:
        """The vector of one query, shape (dimension,)."""
        return cast(Vector, self._finish(self._run([text], query=True))[0])

    def _run(self, texts: list[str], *, query: bool = False) -> Vectors:
        with self._lock:
            model = self._model
            if isinstance(model, PlainBert):
                return model.encode(texts)
            encode = model.encode_query if query else model.encode_document
            return cast(Vectors, encode(texts, batch_size=len(texts), show_progress_bar=False))

    def _finish(self, vectors: Vectors) -> Vectors:
        if vectors.shape[1] < self._identity.dimension:
            raise ConfigurationError(
                f"model {self._identity.model!r} gives {vectors.shape[1]} dimensions, not the"
                f" {self._identity.dimension} that its files and its vector set say"
            )
        shortened = vectors[:, : self._identity.dimension].astype(np.float32, copy=False)
        if self._identity.normalized:
            # a length is 1 in float32, not only in the model's precision; a null vector stays one
            lengths = np.linalg.norm(shortened, axis=1, keepdims=True)
            shortened = (shortened / np.where(lengths, lengths, 1)).astype(np.float32)
        return shortened

    @cached_property
    def _model(self) -> PlainBert | SentenceTransformer:
        device = self.device
        dtype = dtype_for(self._options.precision, device)
        logger.info("loading %s on %s as %s", self._identity.model, device, dtype)
        try:
            if is_plain_bert(self._folder):
                return PlainBert(
                    self._folder,
                    max_tokens=self._identity.max_tokens,
                    device=device,
                    dtype=dtype,
                )
            return _sentence_transformer(self._folder, device, dtype)
        # corrupt weights, unknown parts and missing packages each raise a kind of their own
        except Exception as error:
            raise ConfigurationError(
                f"model {self._identity.model!r} in {self._folder} cannot be loaded: {error}"
            ) from error


def _sentence_transformer(folder: Path, device: str, dtype: torch.dtype) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    hush()
    return SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": dtype},
    )
