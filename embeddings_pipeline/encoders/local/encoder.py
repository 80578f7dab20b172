"""Encodes with a sentence-transformers model on this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

import numpy as np

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, TokenCount, token_count
from embeddings_pipeline.encoders.local.loaded_model import Prepared
from embeddings_pipeline.encoders.local.shared_model import SharedModel
from embeddings_pipeline.entities.model import ModelIdentity, Vectors


class SentenceTransformersEncoder:
    """A local model whose vectors are as long as the identity says. Threads take turns, those of
    all encoders that share the model."""

    def __init__(self, identity: ModelIdentity, model: SharedModel) -> None:
        self._identity = identity
        self._model = model

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self._identity

    @property
    def device(self) -> str:
        """Where it computes. Raises ConfigurationError for a device that is not there."""
        return self._model.device

    @property
    def token_count(self) -> TokenCount:
        """How many tokens it reads of a text, its prompts left out."""
        return token_count(self._model.folder)

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        self._model.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of the texts, with the model's prompt for documents where it has one."""
        return self._encode(texts, query=False)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """The same of a stream of texts, batch by batch; see `Encoder.encode_stream`."""
        return self._model.encode_stream(texts, self._finish)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Vectors of the texts, with the model's prompt for queries where it has one."""
        return self._encode(texts, query=True)

    def room(self, tokens: int) -> int:
        """How many inputs of so many tokens each make one batch."""
        return self._model.room(tokens)

    def encode_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        """Vectors of one batch of documents that are as the model takes them."""
        return self._finish(self._model.encode_prepared(batch))

    def _encode(self, texts: Sequence[str], *, query: bool) -> Encodings:
        made = self._model.encode(texts, query=query)
        return replace(made, vectors=self._finish(made.vectors))

    def _finish(self, vectors: Vectors) -> Vectors:
        shortened = vectors[:, : self._identity.dimension].astype(np.float32, copy=False)
        if self._identity.normalized:
            # a length is 1 in float32, not only in the model's precision; a null vector stays one
            lengths = np.linalg.norm(shortened, axis=1, keepdims=True)
            shortened = (shortened / np.where(lengths, lengths, 1)).astype(np.float32)
        return shortened
