"""Queries that come at the same time go through the model together."""

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


# how long the first of a batch waits for others: little beside what a model takes
_GATHER_SECONDS = 0.002
_MAX_TEXTS = 64
# documents that the model reads in one go, with queries waiting
_SLICE = 32
# images that are decoded at once: each may take 0.3 GB
_DECODERS = 2

T = TypeVar("T")


@dataclass(frozen=True)
class _Asked:
    texts: Sequence[str]
    answer: Future[Encodings] = field(default_factory=Future)


class BatchedEncoder:
    """Stands before a model, which one thread enters. Safe between threads.

    `report` is told the kind and the usage of each call of the model. Calls raise Unavailable
    where the model has not answered within `timeout` seconds.
    """

    def __init__(
        self, inner: Encoder, report: Callable[[Kind, Usage], None], *, timeout: float
    ) -> None:
        self._inner = inner
        self._report = report
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[_Asked] = []
        self._lock = Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self._inner.identity

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self._inner.device

    @property
    def token_count(self) -> TokenCount:
        """How many tokens the model reads of a text."""
        return self._inner.token_count

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        self._answer_of(self._thread.submit(self._inner.check))

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts that are to be found; queries are read between slices of them."""
        parts: list[Encodings] = []
        for start in range(0, max(len(texts), 1), _SLICE):
            part = self._thread.submit(self._documents, texts[start : start + _SLICE])
            try:
                parts.append(self._answer_of(part))
            except EmbeddingsError as error:
                if not parts:
                    raise
                # what was read before is not lost
                parts[-1] = replace(parts[-1], stopped=error)
            if parts[-1].stopped:
                break
        return parts[0] if len(texts) <= _SLICE else joined(parts, len(texts), _SLICE)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts to find others by; the tokens of a batch are shared out by length."""
        asked = _Asked(texts)
        with self._lock:
            self._waiting.append(asked)
        self._thread.submit(self._encode_waiting)
        return self._answer_of(asked.answer)

    def close(self) -> None:
        """Wait for the model to finish what it reads."""
        self._thread.shutdown()

    def _answer_of(self, answer: Future[T]) -> T:
        try:
            return answer.result(self._timeout)
        except TimeoutError:
            answer.cancel()
            raise Unavailable(
                f"model {self.identity.model!r} did not answer within {self._timeout:g} s"
            ) from None

    def _documents(self, texts: Sequence[str]) -> Encodings:
        encodings = self._inner.encode_documents(texts)
        self._report("document", encodings.usage)
        return encodings

    def _encode_waiting(self) -> None:
        # each call brings one of these: where another took its texts along, nothing is left
        if not self._waiting:
            return
        time.sleep(_GATHER_SECONDS)
        batch = [asked for asked in self._take() if asked.answer.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            encodings = self._inner.encode_query([text for asked in batch for text in asked.texts])
            self._report("query", encodings.usage)
            answers = list(shared_out(encodings, [asked.texts for asked in batch]))
        except Exception as error:
            for asked in batch:
                asked.answer.set_exception(error)
            return
        for asked, answer in zip(batch, answers, strict=True):
            asked.answer.set_result(answer)

    def _take(self) -> list[_Asked]:
        """Those who waited longest, with as many texts as the model reads at once."""
        with self._lock:
            taken, texts = 0, 0
            while taken < len(self._waiting) and (not taken or texts < _MAX_TEXTS):
                texts += len(self._waiting[taken].texts)
                taken += 1
            batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch


class BatchedImageEncoder(BatchedEncoder):
    """The same before a model that sees: images are queries, too, each by itself."""

    def __init__(
        self, inner: ImageEncoder, report: Callable[[Kind, Usage], None], *, timeout: float
    ) -> None:
        super().__init__(inner, report, timeout=timeout)
        self._images = inner
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decoder")

    def encode_image(self, data: bytes) -> Encodings:
        """The vector of one image; texts do not wait until it is decoded."""
        decoded = self._answer_of(self._decoders.submit(self._images.decoded, data))
        return self._answer_of(self._thread.submit(self._image, decoded))

    def close(self) -> None:
        """Wait for what is decoded and read."""
        self._decoders.shutdown()
        super().close()

    def _image(self, decoded: Image | RowError) -> Encodings:
        encodings = self._images.encode_decoded(decoded)
        self._report("query", encodings.usage)
        return encodings


def joined(parts: Sequence[Encodings], count: int, size: int) -> Encodings:
    """The encodings of so many texts from those of slices, each of which but the last has `size`;
    those after one that was stopped are not there."""
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


def shared_out(encodings: Encodings, groups: Sequence[Sequence[str]]) -> Iterator[Encodings]:
    """The encodings of each group of texts, and its share, by length, of what all of them took."""
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
