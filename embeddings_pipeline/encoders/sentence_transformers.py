"""Encodes with a sentence-transformers model on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np

from embeddings_pipeline.encoders.base import Encodings, Usage, Vectors
from embeddings_pipeline.encoders.batching import by_tokens, tapered
from embeddings_pipeline.encoders.devices import (
    device_for,
    dtype_for,
    is_out_of_memory,
    release_memory,
)
from embeddings_pipeline.encoders.general_model import GeneralModel
from embeddings_pipeline.encoders.loaded import LoadedModel, Prepared
from embeddings_pipeline.encoders.plain_bert import PlainBert, is_plain_bert
from embeddings_pipeline.encoders.token_counts import TokenCount, token_count
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError

logger = logging.getLogger(__name__)

# the smallest budget that running out of memory leads to: one text of most models
_LEAST_BATCH_TOKENS = 256
# of a lane: less is not worth a batch of its own, more is no faster
_LEAST_LANE_TOKENS, _MOST_LANE_TOKENS = 256, 512


@dataclass(frozen=True)
class Options:
    """How a local model computes: EMBEDDING_DEVICE, EMBEDDING_PRECISION, and the most texts and
    tokens (padding included) in one batch. A `trusted` model may run code of its own."""

    device: str = "auto"
    precision: str = "auto"
    batch_texts: int = 256
    batch_tokens: int = 2048
    trusted: bool = False


class SentenceTransformersEncoder:
    """A local model, loaded when it is first used. One thread encodes at a time."""

    def __init__(self, identity: ModelIdentity, folder: Path, options: Options) -> None:
        self._identity = identity
        self._folder = folder
        self._options = options
        self._batch_tokens = options.batch_tokens
        self._lock = Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self._identity

    @cached_property
    def device(self) -> str:
        """Where it computes. Raises ConfigurationError for a device that is not there."""
        return device_for(self._options.device)

    @property
    def token_count(self) -> TokenCount:
        """How many tokens it reads of a text, its prompts left out."""
        return token_count(self._folder)

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        with self._lock:
            _ = self._model

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of the texts, with the model's prompt for documents where it has one."""
        return self._encode(texts, query=False)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Vectors of the texts, with the model's prompt for queries where it has one."""
        return self._encode(texts, query=True)

    def room(self, tokens: int) -> int:
        """How many inputs of so many tokens each make one batch."""
        return max(1, min(self._batch_tokens // tokens, self._options.batch_texts))

    def encode_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        """Vectors of one batch of documents that are as the model takes them."""
        with self._lock:
            return self._finish(self._run(self._model, batch, query=False))

    def _encode(self, texts: Sequence[str], *, query: bool) -> Encodings:
        vectors = np.empty((len(texts), self._identity.dimension), np.float32)
        if not texts:
            return Encodings(vectors, Usage())
        with self._lock:
            model = self._model
            started = time.monotonic()
            prepared = model.prepare(texts)
            longest = self._identity.max_tokens
            lengths = [min(text.tokens, longest) for text in prepared]

            def fill(batch: Sequence[int]) -> None:
                contents = [prepared[i] for i in batch]
                vectors[batch] = self._finish(self._run(model, contents, query=query))

            self._share_out(model, lengths, fill)
        return Encodings(
            vectors,
            Usage(
                texts=len(texts),
                tokens=sum(lengths),
                truncated=sum(text.tokens > longest for text in prepared),
                seconds=time.monotonic() - started,
            ),
        )

    def _share_out(
        self, model: LoadedModel, lengths: Sequence[int], fill: Callable[[Sequence[int]], None]
    ) -> None:
        """Fill in texts of these lengths, batch by batch, beside one another where they can be."""
        tokens, texts = self._batch_tokens, self._options.batch_texts
        if model.lanes is None:
            for batch in by_tokens(lengths, max_tokens=tokens, max_texts=texts):
                fill(batch)
            return
        # few texts are for all lanes too, and of many no lane is left with a long one at the end
        share = max(sum(lengths) // model.lanes.count + max(lengths), _LEAST_LANE_TOKENS)
        tokens = min(tokens, share, _MOST_LANE_TOKENS)
        batches = by_tokens(lengths, max_tokens=tokens, max_texts=texts)
        model.lanes.run(fill, tapered(batches, lanes=model.lanes.count))

    def _run(self, model: LoadedModel, batch: Sequence[Prepared], *, query: bool) -> Vectors:
        """Out of memory, halve the batch, and keep those to come as small."""
        try:
            return model.encode(batch, query=query)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        release_memory(self.device)
        self._batch_tokens = max(self._batch_tokens // 2, _LEAST_BATCH_TOKENS)
        logger.warning(
            "%s ran out of memory with %d texts: batches have %d tokens from now on",
            *(self._identity.model, len(batch), self._batch_tokens),
        )
        half = len(batch) // 2
        halves = (batch[:half], batch[half:])
        return np.concatenate([self._run(model, part, query=query) for part in halves])

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
    def _model(self) -> LoadedModel:
        device = self.device
        dtype = dtype_for(self._options.precision, device)
        logger.info("loading %s on %s as %s", self._identity.model, device, dtype)
        general = partial(GeneralModel, trusted=self._options.trusted)
        load = PlainBert if is_plain_bert(self._folder) else general
        try:
            return load(
                self._folder, max_tokens=self._identity.max_tokens, device=device, dtype=dtype
            )
        # corrupt weights, unknown parts and missing packages each raise a kind of their own
        except Exception as error:
            raise ConfigurationError(
                f"model {self._identity.model!r} in {self._folder} cannot be loaded: {error}"
            ) from error
