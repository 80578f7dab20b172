"""An encoder with the prompts that an entity declares, as models like E5 and nomic-embed expect."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from embeddings_pipeline.encoders.encoder import (
    EncodedBatch,
    Encodings,
    StreamingEncoder,
    TokenCount,
)
from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.entities.model import ModelIdentity


class PromptedEncoder:
    """Wraps another encoder, `inner`, and puts a prompt before each document and each query."""

    def __init__(self, inner: StreamingEncoder, prompts: Prompts) -> None:
        self.inner = inner
        self._prompts = prompts

    @cached_property
    def identity(self) -> ModelIdentity:
        """The identity of the model with the prompts."""
        return replace(
            self.inner.identity,
            document_prompt=self._prompts.document,
            query_prompt=self._prompts.query,
        )

    @property
    def device(self) -> str:
        """The device of the model."""
        return self.inner.device

    @property
    def token_count(self) -> TokenCount:
        """A token counter of documents with their prompt."""
        count = self.inner.token_count
        return TokenCount(lambda texts: count.of(self._documents(texts)), count.exact)

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""
        self.inner.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of documents, each with the document prompt before it."""
        return self.inner.encode_documents(self._documents(texts))

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Yield the vectors of documents, each with the document prompt before it."""
        return self.inner.encode_stream(self._prompts.document + text for text in texts)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of queries, each with the query prompt before it."""
        return self.inner.encode_query([self._prompts.query + text for text in texts])

    def _documents(self, texts: Sequence[str]) -> list[str]:
        return [self._prompts.document + text for text in texts]
