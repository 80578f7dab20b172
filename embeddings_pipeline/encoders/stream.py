"""The threads of an encoder's stream.

One thread reads texts, others tokenise or decode them, others pass batches to the model. Each
waits while the next stage is behind.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from threading import Condition, Lock, Thread
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import psycopg

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Usage
from embeddings_pipeline.errors import EmbeddingsError, RowError

# time that an incomplete batch waits for another text
BATCH_WAIT_SECONDS = 0.5
# time that closing waits for a thread that is blocked in the source of the texts
_JOIN_SECONDS = 1.0

T = TypeVar("T")
S = TypeVar("S")
Batch = TypeVar("Batch")


def encode_batch(places: Sequence[int], encode: Callable[[], Encodings]) -> EncodedBatch:
    """Encode the texts at these positions.

    An error of `encode` becomes the batch's error where the texts may cause it. An error that ends
    the run is raised.
    """
    try:
        made = encode()
        if len(made.vectors) != len(places):
            raise RowError(f"the encoder gave {len(made.vectors)} vectors for {len(places)} texts")
        return EncodedBatch(places, made)
    # an encoder may raise any exception for a text that it rejects
    except Exception as error:
        # the database error comes from the shared rate limits
        ends = isinstance(error, EmbeddingsError | psycopg.OperationalError)
        if ends and not isinstance(error, RowError):
            raise
        return EncodedBatch(places, Encodings(np.empty((0, 0), np.float32), Usage()), error)


class Item(NamedTuple, Generic[T]):
    """The text at a position of the stream, in its current form; `tokens` is 0 until counted."""

    place: int
    content: T
    tokens: int = 0


class Channel(Generic[T]):
    """A bounded queue between threads.

    The queue accepts another item while the weight of its items is below `capacity`. The weight of
    an item is its tokens, at least `min_weight`. The queue ends when each of its `writers` has
    called `end`.
    """

    def __init__(self, capacity: int, *, min_weight: int = 1, writers: int = 1) -> None:
        self._capacity = capacity
        self._min_weight = min_weight
        self._writers = writers
        self._items: deque[Item[T]] = deque()
        self._weight = 0
        self._closed = False
        # a stream passes each text through two channels: a lock and a count of the threads that
        # wait cost half of what a condition alone costs
        self._lock = Lock()
        self._waiting = 0
        self._changed = Condition(self._lock)

    @property
    def over(self) -> bool:
        """Whether the queue is empty and no more items will come."""
        with self._lock:
            return self._closed or not (self._items or self._writers)

    def put(self, *items: Item[T]) -> bool:
        """Add items, each after waiting for capacity. Returns false where the channel is closed."""
        with self._lock:
            for item in items:
                if self._weight >= self._capacity:
                    self._wait_for(lambda: self._closed or self._weight < self._capacity)
                if self._closed:
                    return False
                self._items.append(item)
                self._weight += self._weight_of(item)
            if self._waiting:
                self._changed.notify_all()
            return True

    def take(self, max_items: int | None = None, seconds: float | None = None) -> list[Item[T]]:
        """Wait for an item and take up to `max_items` items.

        Returns an empty list where the channel is over, or no item came within `seconds`.
        """
        with self._lock:
            if not self._items:
                self._wait_for(
                    lambda: self._closed or self._items or not self._writers, timeout=seconds
                )
            count = len(self._items) if max_items is None else min(max_items, len(self._items))
            taken = [self._items.popleft() for _ in range(count)]
            self._weight -= sum(map(self._weight_of, taken))
            self._changed.notify_all()
            return taken

    def end(self) -> None:
        """Say that one writer adds no more items. Each writer calls this once."""
        with self._lock:
            self._writers -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Drop the items and wake all waiting threads."""
        with self._lock:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _wait_for(self, ready: Callable[[], object], timeout: float | None = None) -> None:
        # the items that were added so far may be what another thread waits for
        self._changed.notify_all()
        self._waiting += 1
        try:
            self._changed.wait_for(ready, timeout=timeout)
        finally:
            self._waiting -= 1

    def _weight_of(self, item: Item[T]) -> int:
        return max(item.tokens, self._min_weight)


class Stream:
    """The threads of one stream. The owner must close it.

    At most `max_running` batches are with the model at a time. Together with the finished batches
    that the consumer has not taken they are at most `max_held`.
    """

    def __init__(self, *, max_running: int, max_held: int) -> None:
        self._max_running = max_running
        self._max_held = max_held
        self._running = 0
        self._done: deque[EncodedBatch] = deque()
        # no further batch begins
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._since = 0.0
        self._changed = Condition()
        self._channels: list[Channel[Any]] = []
        self._threads: list[Thread] = []

    def read(self, texts: Iterable[str], *, capacity: int) -> Channel[str]:
        """Read the texts in a thread, at most `capacity` texts ahead."""
        channel: Channel[str] = self._channel(capacity)

        def read() -> None:
            for place, text in enumerate(texts):
                if not channel.put(Item(place, text)):
                    return

        self._start(read, channel.end)
        return channel

    def stage(
        self,
        work: Callable[[list[Item[S]]], Iterable[Item[T]]],
        source: Channel[S],
        *,
        max_items: int,
        capacity: int,
        min_weight: int = 1,
        threads: int = 1,
    ) -> Channel[T]:
        """Process items of a channel in threads, up to `max_items` at once.

        Returns the channel of the results.
        """
        channel: Channel[T] = self._channel(capacity, min_weight=min_weight, writers=threads)

        def run() -> None:
            while items := source.take(max_items):
                if not channel.put(*work(items)):
                    return

        for _ in range(threads):
            self._start(run, channel.end)
        return channel

    def batches(
        self,
        pending: Iterable[Batch],
        encode: Callable[[Batch], Iterable[EncodedBatch]],
        pool: Executor,
    ) -> Generator[EncodedBatch, None, None]:
        """Yield the encoded batches as soon as they are finished.

        `pool` holds the model's threads. An error in any thread of the stream ends the stream, and
        is raised here after the submitted batches were finished and yielded.
        """

        def run(batch: Batch) -> None:
            try:
                # `close` waits for this batch
                for done in [] if self._closed else encode(batch):
                    self._give(done)
            # the consumer's thread raises the error
            except BaseException as error:
                self._fail(error)
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

        def submit_all() -> None:
            left = iter(pending)
            while self._has_room() and (batch := next(left, None)) is not None:
                with self._changed:
                    if self._ended:
                        return
                    pool.submit(run, batch)
                    self._running += 1
                    if self._running == 1:
                        self._since = time.monotonic()

        self._start(submit_all, self._end)
        while (done := self._next()) is not None:
            yield done
        if self._error:
            raise self._error

    def close(self) -> None:
        """Drop batches that were not begun, wait for those that were, and end the threads."""
        with self._changed:
            self._closed = self._ended = True
            self._changed.notify_all()
        for channel in self._channels:
            channel.close()
        until = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def _channel(self, capacity: int, *, min_weight: int = 1, writers: int = 1) -> Channel[Any]:
        channel: Channel[Any] = Channel(capacity, min_weight=min_weight, writers=writers)
        self._channels.append(channel)
        return channel

    def _start(self, work: Callable[[], None], end: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._fail(error)
            finally:
                end()

        # a daemon: a stream that nobody closed must not keep the process alive
        thread = Thread(target=run, name="stream", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _has_room(self) -> bool:
        """Wait until another batch may begin. Returns false where the stream has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._ended
                    or (
                        self._running < self._max_running
                        and self._running + len(self._done) < self._max_held
                    )
                )
            )
            return not self._ended

    def _give(self, done: EncodedBatch) -> None:
        with self._changed:
            now = time.monotonic()
            # batches overlap: each counts the time since the previous batch finished
            usage = replace(done.encodings.usage, seconds=now - self._since)
            self._since = now
            self._done.append(done._replace(encodings=replace(done.encodings, usage=usage)))
            self._changed.notify_all()

    def _next(self) -> EncodedBatch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._done or (self._ended and not self._running))
            self._changed.notify_all()
            return self._done.popleft() if self._done else None

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            # later errors are consequences of the first
            self._error = self._error or error
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def fill_batches(
    items: Channel[T],
    *,
    max_texts: int,
    max_tokens: int | None = None,
    max_wait: float | None = BATCH_WAIT_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Sequence[Item[T]]]:
    """Group items into batches in their order, each as large as the limits allow.

    An incomplete batch is yielded when no item comes for `max_wait` seconds, since the source may
    be waiting for the results of its items. None waits without limit. `check` is called between
    waits and may raise.
    """
    batch: list[Item[T]] = []
    tokens = 0
    while not items.over:
        check()
        some = items.take(seconds=max_wait)
        if batch and not some:
            yield batch
            batch, tokens = [], 0
        for item in some:
            if batch and max_tokens is not None and tokens + item.tokens > max_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(item)
            tokens += item.tokens
            if len(batch) == max_texts:
                yield batch
                batch, tokens = [], 0
    if batch:
        yield batch
