"""The encoder of a sentence-transformers model on this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

import numpy as np

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, TokenCount
from embeddings_pipeline.encoders.local.loaded_model import PreparedInput
from embeddings_pipeline.encoders.local.shared_model import SharedModel
from embeddings_pipeline.encoders.local.tokenizer import token_count
from embeddings_pipeline.entities.model import ModelIdentity, Vectors


class SentenceTransformersEncoder:
    """Encodes with a local model; its vectors are cut to the dimension of the identity.

    Thread-safe: the calls of all encoders that share the model take turns.
    """

    def __init__(self, identity: ModelIdentity, model: SharedModel) -> None:
        self._identity = identity
        self._model = model

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model. Does not load the model."""
        return self._identity

    @property
    def device(self) -> str:
        """The device of the model. Raises ConfigurationError for a device that is missing."""
        return self._model.device

    @property
    def token_count(self) -> TokenCount:
        """The token counter of the model, for documents with the prompt in the model's files."""
        count, prompt = token_count(self._model.folder), self._model.prompts.document
        if not prompt:
            return count
        return TokenCount(lambda texts: count.of([prompt + text for text in texts]), count.exact)

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""
        self._model.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of documents, with the model's document prompt where it has one."""
        return self._encode(texts, query=False)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Yield the vectors of documents batch by batch; see `StreamingEncoder.encode_stream`."""
        return self._model.encode_stream(texts, self._finish)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of queries, with the model's query prompt where it has one."""
        return self._encode(texts, query=True)

    def batch_capacity(self, tokens: int) -> int:
        """Return how many inputs of `tokens` tokens each fit in one batch."""
        return self._model.batch_capacity(tokens)

    def encode_prepared(self, batch: Sequence[PreparedInput]) -> Vectors:
        """Return the vectors of one batch of prepared documents, shape (batch, dimension)."""
        return self._finish(self._model.encode_prepared(batch))

    def _encode(self, texts: Sequence[str], *, query: bool) -> Encodings:
        made = self._model.encode(texts, query=query)
        return replace(made, vectors=self._finish(made.vectors))

    def _finish(self, vectors: Vectors) -> Vectors:
        shortened = vectors[:, : self._identity.dimension].astype(np.float32, copy=False)
        if self._identity.normalized:
            # normalized again in float32, since the model may use less; a zero vector stays zero
            lengths = np.sqrt(np.einsum("ij,ij->i", shortened, shortened))[:, None]
            shortened = (shortened / np.where(lengths, lengths, 1)).astype(np.float32, copy=False)
        return shortened
