"""A model of this machine, loaded once for all encoders of it, whatever dimension they give."""

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


class SharedModel:
    """The model in a folder, loaded when it is first used. One thread encodes at a time.

    `identity` is that of its vectors in full.
    """

    def __init__(self, identity: ModelIdentity, folder: Path, options: Options) -> None:
        self.identity = identity
        self.folder = folder
        self.options = options
        self._batch_tokens = options.batch_tokens
        self._lock = Lock()

    @cached_property
    def device(self) -> str:
        """Where it computes. Raises ConfigurationError for a device that is not there."""
        return device_for(self.options.device)

    def check(self) -> None:
        """Load it. Raises ConfigurationError where it or its device is not there."""
        with self._lock:
            _ = self._model

    def room(self, tokens: int) -> int:
        """How many inputs of so many tokens each make one batch."""
        return max(1, min(self._batch_tokens // tokens, self.options.batch_texts))

    def encode_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        """Vectors of one batch of documents that are as the model takes them."""
        with self._lock:
            return self._run(self._model, batch, query=False)

    def encode(self, texts: Sequence[str], *, query: bool) -> Encodings:
        """Vectors of the texts, with the model's prompt for queries or for documents where it has
        one; as they come, of any length."""
        vectors = np.empty((len(texts), self.identity.dimension), np.float32)
        if not texts:
            return Encodings(vectors, Usage())
        with self._lock:
            model = self._model
            started = time.monotonic()
            prepared = model.prepare(texts)
            longest = self.identity.max_tokens
            lengths = [min(text.tokens, longest) for text in prepared]

            def fill(batch: Sequence[int]) -> None:
                contents = [prepared[i] for i in batch]
                vectors[batch] = self._run(model, contents, query=query)

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
        tokens, texts = self._batch_tokens, self.options.batch_texts
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
            return self._checked(model.encode(batch, query=query))
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        release_memory(self.device)
        self._batch_tokens = max(self._batch_tokens // 2, _LEAST_BATCH_TOKENS)
        logger.warning(
            "%s ran out of memory with %d texts: batches have %d tokens from now on",
            *(self.identity.model, len(batch), self._batch_tokens),
        )
        half = len(batch) // 2
        halves = (batch[:half], batch[half:])
        return np.concatenate([self._run(model, part, query=query) for part in halves])

    def _checked(self, vectors: Vectors) -> Vectors:
        if vectors.shape[1] != self.identity.dimension:
            raise ConfigurationError(
                f"model {self.identity.model!r} gives {vectors.shape[1]} dimensions, not the"
                f" {self.identity.dimension} that its files say"
            )
        return vectors

    @cached_property
    def _model(self) -> LoadedModel:
        device = self.device
        dtype = dtype_for(self.options.precision, device)
        logger.info("loading %s on %s as %s", self.identity.model, device, dtype)
        general = partial(GeneralModel, trusted=self.options.trusted)
        load = PlainBert if is_plain_bert(self.folder) else general
        try:
            return load(
                self.folder, max_tokens=self.identity.max_tokens, device=device, dtype=dtype
            )
        # corrupt weights, unknown parts and missing packages each raise a kind of their own
        except Exception as error:
            raise ConfigurationError(
                f"model {self.identity.model!r} in {self.folder} cannot be loaded: {error}"
            ) from error
