"""A model of this machine, loaded once for all encoders of it, whatever dimension they give."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np

from embeddings_pipeline.encoders.batching import Channel, Item, Stream, by_tokens, encoded, tapered
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Usage
from embeddings_pipeline.encoders.local.bert import PlainBert, is_plain_bert
from embeddings_pipeline.encoders.local.devices import (
    device_for,
    dtype_for,
    is_out_of_memory,
    release_memory,
)
from embeddings_pipeline.encoders.local.loaded_model import LoadedModel, Prepared
from embeddings_pipeline.encoders.local.sentence_transformers import GeneralModel
from embeddings_pipeline.entities.model import ModelIdentity, Vectors
from embeddings_pipeline.errors import ConfigurationError

logger = logging.getLogger(__name__)

# the smallest budget that running out of memory leads to: one text of most models
_LEAST_BATCH_TOKENS = 256
# of a lane: less is not worth a batch of its own, more is no faster
_LEAST_LANE_TOKENS, _MOST_LANE_TOKENS = 256, 512
# of a stream: texts that are tokenised at once; tokens among which texts of like length are found,
# with the least that a text counts, so that they are at most 8,192 texts
_CHUNK_TEXTS = 512
_AHEAD_TOKENS, _LEAST_TEXT_TOKENS = 262_144, 32
# batches for each thread of the model: one that waits, so that a query does not wait long; and
# those that are done while the consumer is busy
_RUNNING, _HELD = 2, 16


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
    """The model in a folder, loaded when it is first used. Any number of threads may use it; their
    calls take turns, and a stream lets others in between its batches.

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

            batches = self._batches(model, lengths, taper=True)
            if model.lanes:
                model.lanes.run(fill, batches)
            else:
                for batch in batches:
                    fill(batch)
        return Encodings(
            vectors,
            Usage(
                texts=len(texts),
                tokens=sum(lengths),
                truncated=sum(text.tokens > longest for text in prepared),
                seconds=time.monotonic() - started,
            ),
        )

    def encode_stream(
        self, texts: Iterable[str], finish: Callable[[Vectors], Vectors]
    ) -> Generator[EncodedBatch, None, None]:
        """Vectors of documents, each batch given to `finish`; see `Encoder.encode_stream`.

        Texts of like length are found among those that were read while the model was at work.
        """
        self.check()
        model = self._model
        with ExitStack() as stack:
            pool = model.lanes.pool if model.lanes else stack.enter_context(ThreadPoolExecutor(1))
            threads = model.lanes.count if model.lanes else 1
            stream = Stream(running=_RUNNING * threads, held=_HELD * threads)
            stack.enter_context(closing(stream))
            prepared = stream.stage(
                partial(self._prepare, model),
                stream.read(texts, room=_CHUNK_TEXTS),
                most=_CHUNK_TEXTS,
                room=_AHEAD_TOKENS,
                least=_LEAST_TEXT_TOKENS,
            )
            encode = partial(self._encode_batch, model, finish)
            yield from stream.batches(self._cut(model, prepared), encode, pool)

    def _prepare(self, model: LoadedModel, read: Sequence[Item[str]]) -> Iterator[Item[Prepared]]:
        prepared = model.prepare([item.content for item in read])
        for item, text in zip(read, prepared, strict=True):
            yield Item(item.place, text, min(text.tokens, self.identity.max_tokens))

    def _encode_batch(
        self,
        model: LoadedModel,
        finish: Callable[[Vectors], Vectors],
        batch: Sequence[Item[Prepared]],
    ) -> list[EncodedBatch]:
        contents = [item.content for item in batch]
        usage = Usage(
            texts=len(batch),
            tokens=sum(item.tokens for item in batch),
            truncated=sum(text.tokens > self.identity.max_tokens for text in contents),
        )

        def encode() -> Encodings:
            with nullcontext() if model.lanes else self._lock:
                vectors = self._run(model, contents, query=False)
            return Encodings(finish(vectors), usage)

        return [encoded([item.place for item in batch], encode)]

    def _cut(
        self, model: LoadedModel, prepared: Channel[Prepared]
    ) -> Iterator[list[Item[Prepared]]]:
        """Batches of all that there is whenever the model has none left to begin."""
        while some := prepared.take():
            lengths = [item.tokens for item in some]
            for batch in self._batches(model, lengths, taper=prepared.over):
                yield [some[i] for i in batch]

    def _batches(
        self, model: LoadedModel, lengths: Sequence[int], *, taper: bool
    ) -> list[list[int]]:
        """The indexes of texts of these lengths, for the lanes where the model has some; with
        smaller batches at the end where it is to `taper`."""
        tokens, texts = self._batch_tokens, self.options.batch_texts
        if model.lanes is None:
            return by_tokens(lengths, max_tokens=tokens, max_texts=texts)
        # few texts are for all lanes too, and of many no lane is left with a long one at the end
        share = max(sum(lengths) // model.lanes.count + max(lengths), _LEAST_LANE_TOKENS)
        tokens = min(tokens, share, _MOST_LANE_TOKENS)
        batches = by_tokens(lengths, max_tokens=tokens, max_texts=texts)
        return tapered(batches, lanes=model.lanes.count) if taper else batches

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
