"""A local model that is loaded once and shared by its encoders of all dimensions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np

from embeddings_pipeline.encoders.batching import batches_by_length
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Usage
from embeddings_pipeline.encoders.local.devices import device_for, is_out_of_memory, release_memory
from embeddings_pipeline.encoders.local.loaded_model import (
    BatchLimits,
    LoadedModel,
    PreparedInput,
)
from embeddings_pipeline.encoders.local.loading import LocalOptions, load_model
from embeddings_pipeline.encoders.local.model_files import file_prompts, is_static
from embeddings_pipeline.encoders.stream import Channel, Item, Stream, encode_batch
from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.entities.model import ModelIdentity, Vectors
from embeddings_pipeline.errors import ConfigurationError

logger = logging.getLogger(__name__)

# lower bound of a batch after running out of memory: one text of most models
_MIN_BATCH_TOKENS = 256
# of a stream: texts tokenised at once; tokens read ahead, among which texts of like length are
# found; tokens that a short text counts, so that at most 8,192 texts are read ahead
_CHUNK_TEXTS = 512
_AHEAD_TOKENS, _MIN_TEXT_TOKENS = 262_144, 32
# batches for each thread of the model: one running and one waiting, so that a query does not wait
# long; and at most this many that run or wait for the consumer
_RUNNING, _HELD = 2, 16


class SharedModel:
    """The model in a folder, loaded on first use.

    Thread-safe: calls take turns, and other calls may run between the batches of a stream.
    `identity` has the model's full dimension.
    """

    def __init__(self, identity: ModelIdentity, folder: Path, options: LocalOptions) -> None:
        self.identity = identity
        self.folder = folder
        self.options = options
        self._memory_limit: int | None = None
        self._lock = Lock()

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts in the model's files, if they are used."""
        return file_prompts(self.folder) if self.options.own_prompts else Prompts()

    @cached_property
    def device(self) -> str:
        """The device of the model. Raises ConfigurationError for a device that is missing."""
        # a lookup takes less time than the way to a card
        return "cpu" if is_static(self.folder) else device_for(self.options.device)

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""
        with self._lock:
            _ = self._model

    def batch_capacity(self, tokens: int) -> int:
        """Return how many inputs of `tokens` tokens each fit in one batch."""
        limits = self._limits
        return max(1, min(limits.tokens // tokens, limits.texts))

    def encode_prepared(self, batch: Sequence[PreparedInput]) -> Vectors:
        """Return the vectors of one batch of prepared documents, at the full dimension."""
        tokens = sum(prepared.tokens for prepared in batch)
        with self._lock:
            return self._run(self._model, batch, tokens, query=False)

    def encode(self, texts: Sequence[str], *, query: bool) -> Encodings:
        """Return the vectors of the texts at the full dimension, not normalized by this method.

        `query` selects the model's query prompt rather than its document prompt.
        """
        vectors = np.empty((len(texts), self.identity.dimension), np.float32)
        if not texts:
            return Encodings(vectors, Usage())
        with self._lock:
            model = self._model
            started = time.monotonic()
            prepared = model.prepare(self._prompted(model, texts, query=query), query=query)
            longest = self.identity.max_tokens
            lengths = [min(text.tokens, longest) for text in prepared]

            def fill(batch: Sequence[int]) -> None:
                contents = [prepared[i] for i in batch]
                tokens = sum(lengths[i] for i in batch)
                vectors[batch] = self._run(model, contents, tokens, query=query)

            batches = self._batches(model, lengths, taper=True)
            if model.workers:
                model.workers.run(fill, batches)
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
        """Yield the vectors of documents; see `StreamingEncoder.encode_stream`.

        `finish` shortens and normalizes the vectors of a batch. Texts of like length share a
        batch, chosen among the texts that were read while the model worked.
        """
        self.check()
        model = self._model
        with ExitStack() as stack:
            pool = (
                model.workers.pool if model.workers else stack.enter_context(ThreadPoolExecutor(1))
            )
            threads = model.workers.count if model.workers else 1
            stream = Stream(max_running=_RUNNING * threads, max_held=_HELD * threads)
            stack.enter_context(closing(stream))
            prepared = stream.stage(
                partial(self._prepare, model),
                stream.read(texts, capacity=_CHUNK_TEXTS),
                max_items=_CHUNK_TEXTS,
                capacity=_AHEAD_TOKENS,
                min_weight=_MIN_TEXT_TOKENS,
                threads=model.workers.preparers if model.workers else 1,
            )
            encode = partial(self._encode_batch, model, finish)
            yield from stream.batches(self._cut(model, prepared), encode, pool)

    def _prepare(
        self, model: LoadedModel, read: Sequence[Item[str]]
    ) -> Iterator[Item[PreparedInput]]:
        texts = self._prompted(model, [item.content for item in read], query=False)
        prepared = model.prepare(texts, query=False)
        for item, text in zip(read, prepared, strict=True):
            yield Item(item.place, text, min(text.tokens, self.identity.max_tokens))

    def _prompted(self, model: LoadedModel, texts: Sequence[str], *, query: bool) -> Sequence[str]:
        if model.adds_prompts:
            return texts
        prompt = self.prompts.query if query else self.prompts.document
        return [prompt + text for text in texts]

    def _encode_batch(
        self,
        model: LoadedModel,
        finish: Callable[[Vectors], Vectors],
        batch: Sequence[Item[PreparedInput]],
    ) -> list[EncodedBatch]:
        contents = [item.content for item in batch]
        usage = Usage(
            texts=len(batch),
            tokens=sum(item.tokens for item in batch),
            truncated=sum(text.tokens > self.identity.max_tokens for text in contents),
        )

        def encode() -> Encodings:
            with nullcontext() if model.workers else self._lock:
                vectors = self._run(model, contents, usage.tokens, query=False)
            return Encodings(finish(vectors), usage)

        return [encode_batch([item.place for item in batch], encode)]

    def _cut(
        self, model: LoadedModel, prepared: Channel[PreparedInput]
    ) -> Iterator[list[Item[PreparedInput]]]:
        """Yield batches of all texts that are ready, each time the previous batches have begun."""
        while some := prepared.take():
            lengths = [item.tokens for item in some]
            for batch in self._batches(model, lengths, taper=prepared.over):
                yield [some[i] for i in batch]

    def _batches(
        self, model: LoadedModel, lengths: Sequence[int], *, taper: bool
    ) -> list[list[int]]:
        """Group texts of these lengths into batches of indexes; with `taper` no more follow."""
        texts, tokens = self._limits
        if model.workers:
            return model.workers.batches(lengths, max_tokens=tokens, max_texts=texts, taper=taper)
        return batches_by_length(lengths, max_tokens=tokens, max_texts=texts, pads=True)

    @property
    def _limits(self) -> BatchLimits:
        """The most texts and tokens of a batch, by the settings or else by the model, and the most
        tokens that fitted in memory."""
        limits, options = self._model.limits, self.options
        tokens = options.batch_tokens or limits.tokens
        return BatchLimits(
            options.batch_texts or limits.texts, min(tokens, self._memory_limit or tokens)
        )

    def _run(
        self, model: LoadedModel, batch: Sequence[PreparedInput], tokens: int, *, query: bool
    ) -> Vectors:
        """Encode a batch of `tokens` tokens. After running out of memory, halve this batch, and
        make later batches no larger than its halves."""
        try:
            return self._checked(model.encode(batch, query=query))
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        release_memory(self.device)
        # other batches of this size were planned, and may fail as well
        half_tokens = tokens // 2
        self._memory_limit = max(min(self._limits.tokens, half_tokens), _MIN_BATCH_TOKENS)
        logger.warning(
            "%s ran out of memory with %d texts: batches have %d tokens from now on",
            self.identity.model,
            len(batch),
            self._memory_limit,
        )
        half = len(batch) // 2
        halves = (batch[:half], batch[half:])
        return np.concatenate([self._run(model, part, half_tokens, query=query) for part in halves])

    def _checked(self, vectors: Vectors) -> Vectors:
        if vectors.shape[1] != self.identity.dimension:
            raise ConfigurationError(
                f"model {self.identity.model!r} returned {vectors.shape[1]} dimensions, but its"
                f" files declare {self.identity.dimension}: download the model again"
            )
        return vectors

    @cached_property
    def _model(self) -> LoadedModel:
        return load_model(self.identity, self.folder, self.options, self.device)
