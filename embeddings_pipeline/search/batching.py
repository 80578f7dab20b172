"""Encodes concurrent queries in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from embeddings_pipeline.encoders.encoder import Encoder, Encodings, Kind, TokenCount, Usage
from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.entities.chunking import count_tokens
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import EmbeddingsError, RowError, Unavailable

if TYPE_CHECKING:
    from PIL.Image import Image


# time that the first query of a batch waits for others, short beside the model's own time
_GATHER_SECONDS = 0.002
_MAX_TEXTS = 64
# documents encoded at once, while queries wait
_SLICE = 32
# images decoded at once; each may take 0.3 GB
_DECODERS = 2

T = TypeVar("T")


@dataclass(frozen=True)
class _PendingQuery:
    texts: Sequence[str]
    answer: Future[Encodings] = field(default_factory=Future)


class BatchedEncoder:
    """Gathers the queries of many threads into batches for one model. Thread-safe.

    One thread calls the model. `on_usage` receives the kind and the usage of each call of the
    model. Calls raise Unavailable where the model has not finished within `timeout` seconds.
    """

    def __init__(
        self, inner: Encoder, on_usage: Callable[[Kind, Usage], None], *, timeout: float
    ) -> None:
        self._inner = inner
        self._on_usage = on_usage
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[_PendingQuery] = []
        self._lock = Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model. Does not load the model."""
        return self._inner.identity

    @property
    def device(self) -> str:
        """The device of the model."""
        return self._inner.device

    @property
    def token_count(self) -> TokenCount:
        """The token counter of the model."""
        return self._inner.token_count

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""
        self._result_of(self._thread.submit(self._inner.check))

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of documents. Queries are encoded between slices of the documents."""
        parts: list[Encodings] = []
        for start in range(0, max(len(texts), 1), _SLICE):
            part = self._thread.submit(self._documents, texts[start : start + _SLICE])
            try:
                parts.append(self._result_of(part))
            except EmbeddingsError as error:
                if not parts:
                    raise
                # keep the vectors of earlier slices
                parts[-1] = replace(parts[-1], stopped=error)
            if parts[-1].stopped:
                break
        return parts[0] if len(texts) <= _SLICE else join_slices(parts, len(texts), _SLICE)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of queries. The usage is a share of the batch's usage, by length."""
        query = _PendingQuery(texts)
        with self._lock:
            self._waiting.append(query)
        self._thread.submit(self._encode_waiting)
        return self._result_of(query.answer)

    def close(self) -> None:
        """Wait for running calls of the model."""
        self._thread.shutdown()

    def _result_of(self, answer: Future[T]) -> T:
        try:
            return answer.result(self._timeout)
        except TimeoutError:
            answer.cancel()
            raise Unavailable(
                f"model {self.identity.model!r} did not finish within {self._timeout:g} s"
            ) from None

    def _documents(self, texts: Sequence[str]) -> Encodings:
        # queries go before documents that came earlier
        self._encode_waiting()
        encodings = self._inner.encode_documents(texts)
        self._on_usage("document", encodings.usage)
        return encodings

    def _encode_waiting(self) -> None:
        # each call submits this task; an earlier task may have taken the query along
        if not self._waiting:
            return
        time.sleep(_GATHER_SECONDS)
        batch = [query for query in self._take() if query.answer.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            encodings = self._inner.encode_query([text for query in batch for text in query.texts])
            self._on_usage("query", encodings.usage)
            answers = list(split_by_group(encodings, [query.texts for query in batch]))
        except Exception as error:
            for query in batch:
                query.answer.set_exception(error)
            return
        for query, answer in zip(batch, answers, strict=True):
            query.answer.set_result(answer)

    def _take(self) -> list[_PendingQuery]:
        """Take the oldest queries, up to as many texts as the model encodes at once."""
        with self._lock:
            taken, texts = 0, 0
            while taken < len(self._waiting) and (not taken or texts < _MAX_TEXTS):
                texts += len(self._waiting[taken].texts)
                taken += 1
            batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch


class BatchedImageEncoder(BatchedEncoder):
    """A BatchedEncoder whose model also takes images as queries, one image at a time."""

    def __init__(
        self, inner: ImageEncoder, on_usage: Callable[[Kind, Usage], None], *, timeout: float
    ) -> None:
        super().__init__(inner, on_usage, timeout=timeout)
        self._images = inner
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decoder")

    def encode_image(self, data: bytes) -> Encodings:
        """Return the vector of one image. Text queries do not wait for the decoding."""
        decoded = self._result_of(self._decoders.submit(self._images.decoded, data))
        return self._result_of(self._thread.submit(self._image, decoded))

    def close(self) -> None:
        """Wait for running decodings and calls of the model."""
        self._decoders.shutdown()
        super().close()

    def _image(self, decoded: Image | RowError) -> Encodings:
        encodings = self._images.encode_decoded(decoded)
        self._on_usage("query", encodings.usage)
        return encodings


def join_slices(parts: Sequence[Encodings], count: int, size: int) -> Encodings:
    """Join the encodings of slices into the encodings of `count` texts.

    Each slice except the last has `size` texts. Slices after a stopped one are missing; their texts
    become failures.
    """
    read = np.concatenate([part.vectors for part in parts])
    vectors = np.zeros((count, read.shape[1]), np.float32)
    vectors[: len(read)] = read
    stopped = parts[-1].stopped
    failures = {
        number * size + index: why
        for number, part in enumerate(parts)
        for index, why in part.failures.items()
    }
    return Encodings(
        vectors,
        sum((part.usage for part in parts), Usage()),
        failures | {index: str(stopped) for index in range(len(read), count)},
        stopped,
    )


def split_by_group(encodings: Encodings, groups: Sequence[Sequence[str]]) -> Iterator[Encodings]:
    """Yield the encodings of each group of texts, with the group's share of the usage by length."""
    if len(groups) == 1:
        yield encodings
        return
    usage = encodings.usage
    lengths = [sum(count_tokens(texts)) for texts in groups]
    start = 0
    for texts, length in zip(groups, lengths, strict=True):
        end = start + len(texts)
        share = length / max(1, sum(lengths))
        yield Encodings(
            encodings.vectors[start:end],
            Usage(
                texts=len(texts), tokens=round(usage.tokens * share), seconds=usage.seconds * share
            ),
            {i - start: why for i, why in encodings.failures.items() if start <= i < end},
        )
        start = end
