"""Sources of texts that wait, and what came out of a stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import count, islice
from operator import add
from threading import Event
from threading import enumerate as living
from typing import NamedTuple

import numpy as np

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Usage
from embeddings_pipeline.encoders.stream import encode_batch
from embeddings_pipeline.entities.model import Vectors

SECONDS = 30


class Source:
    """Texts; `read` counts the texts taken. Waits for `go_on` before the text at `pause`."""

    def __init__(self, texts: Iterable[str], pause: int | None = None) -> None:
        self._texts = texts
        self._pause = pause
        self.read = 0
        self.waiting = Event()
        self.go_on = Event()

    def __iter__(self) -> Iterator[str]:
        for place, text in enumerate(self._texts):
            if place == self._pause:
                self.waiting.set()
                assert self.go_on.wait(SECONDS)
            self.read += 1
            yield text


class Streamed(NamedTuple):
    """What came out of a stream; `raised` ended it."""

    batches: list[EncodedBatch]
    raised: BaseException | None

    @property
    def places(self) -> list[int]:
        return sorted(place for batch in self.batches for place in batch.places)

    @property
    def usage(self) -> Usage:
        return reduce(add, (batch.encodings.usage for batch in self.batches), Usage())

    @property
    def failures(self) -> dict[int, str]:
        return {
            batch.places[index]: why
            for batch in self.batches
            for index, why in batch.encodings.failures.items()
        }

    def vectors(self, dimension: int) -> Vectors:
        """By place; of texts without one it is not a number."""
        vectors = np.full((max(self.places) + 1, dimension), np.nan, np.float32)
        for batch in self.batches:
            if not batch.error:
                vectors[batch.places] = batch.encodings.vectors
        return vectors


def streamed(batches: Iterable[EncodedBatch], each: Callable[[], object] = list) -> Streamed:
    """All that comes out, until the stream ends or raises; `each` is called after each batch."""
    done: list[EncodedBatch] = []
    try:
        for batch in batches:
            done.append(batch)
            each()
    except BaseException as error:
        return Streamed(done, error)
    return Streamed(done, None)


def threads_of_streams() -> list[str]:
    return [thread.name for thread in living() if thread.name.startswith("stream")]


def lengths_of(texts: Sequence[str]) -> Encodings:
    """A model of one dimension: how long each text is."""
    vectors = np.array([[len(text)] for text in texts], np.float32)
    return Encodings(vectors, Usage(texts=len(texts)))


def stream_in_batches(
    encode: Callable[[Sequence[str]], Encodings], texts: Iterable[str], size: int
) -> Generator[EncodedBatch, None, None]:
    """Stream texts through `encode`, `size` texts at a time, in order, in the consumer's thread.

    For an encoder without a stream of its own.
    """
    left = iter(texts)
    for start in count(0, size):
        some = [*islice(left, size)]
        if not some:
            return
        places = range(start, start + len(some))
        batch = encode_batch(places, partial(encode, some))
        stopped = batch.encodings.stopped
        if stopped:
            # texts that were not encoded are in the failures
            good = [i for i in range(len(some)) if i not in batch.encodings.failures]
            made = Encodings(batch.encodings.vectors[good], batch.encodings.usage)
            batch = EncodedBatch([places[i] for i in good], made)
        yield batch
        if stopped:
            raise stopped
