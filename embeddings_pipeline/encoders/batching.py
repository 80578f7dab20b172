"""Puts texts in batches, and runs the threads of an encoder's stream: one reads texts, others
tokenise or decode them, others give batches to the model. Each waits while the next one is
behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import count, islice
from threading import Condition, Thread
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import psycopg

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Usage
from embeddings_pipeline.errors import EmbeddingsError, RowError

_PIECES = 4


def by_tokens(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """The indexes of texts in batches, longest first.

    A batch, padded to its longest text, has at most `max_tokens` tokens and `max_texts` texts;
    a text that is longer alone is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches:
            longest, texts = lengths[batches[-1][0]], len(batches[-1])
            if texts < max_texts and longest * (texts + 1) <= max_tokens:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def in_order(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """The indexes of texts in batches, in their order, for a reader that pads nothing.

    A batch has at most `max_tokens` tokens and `max_texts` texts; a text that is longer alone is
    a batch of its own.
    """
    batches: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if batches and len(batches[-1]) < max_texts and tokens + length <= max_tokens:
            batches[-1].append(index)
            tokens += length
        else:
            batches.append([index])
            tokens = length
    return batches


def tapered(batches: Sequence[list[int]], *, lanes: int) -> list[list[int]]:
    """The batches with the last one of each lane cut in pieces: lanes that end with small ones
    wait less for one another."""
    if len(batches) <= lanes:
        return list(batches)
    cut = [
        batch[start : start + size]
        for batch in batches[-lanes:]
        for size in [-(-len(batch) // _PIECES)]
        for start in range(0, len(batch), size)
    ]
    return [*batches[:-lanes], *cut]


def encoded(places: Sequence[int], encode: Callable[[], Encodings]) -> EncodedBatch:
    """The batch of the texts at these places. What `encode` raises is the batch's error where the
    texts may be at fault; what ends a run is raised."""
    try:
        made = encode()
        if len(made.vectors) != len(places):
            raise RowError(f"the encoder gave {len(made.vectors)} vectors for {len(places)} texts")
        return EncodedBatch(places, made)
    # an encoder may raise anything for a text that it cannot take
    except Exception as error:
        # the database is that which keeps the limits of requests
        ends = isinstance(error, EmbeddingsError | psycopg.OperationalError)
        if ends and not isinstance(error, RowError):
            raise
        return EncodedBatch(places, Encodings(np.empty((0, 0), np.float32), Usage()), error)


def in_batches(
    encode: Callable[[Sequence[str]], Encodings], texts: Iterable[str], size: int
) -> Generator[EncodedBatch, None, None]:
    """The stream of an encoder that has none of its own: so many texts at a time, in order, in the
    thread of the consumer."""
    left = iter(texts)
    for start in count(0, size):
        some = [*islice(left, size)]
        if not some:
            return
        places = range(start, start + len(some))
        batch = encoded(places, lambda some=some: encode(some))  # type: ignore[misc]
        stopped = batch.encodings.stopped
        if stopped:
            # the texts that it left are among the failures
            good = [i for i in range(len(some)) if i not in batch.encodings.failures]
            made = Encodings(batch.encodings.vectors[good], batch.encodings.usage)
            batch = EncodedBatch([places[i] for i in good], made)
        yield batch
        if stopped:
            raise stopped


# how long a batch that is not full waits for another text
PATIENCE_SECONDS = 0.5
# how long closing waits for a thread that is blocked in the source of the texts
_JOIN_SECONDS = 1.0

T = TypeVar("T")
S = TypeVar("S")
Batch = TypeVar("Batch")


class Item(NamedTuple, Generic[T]):
    """What has become of the text at a place of the stream; `tokens` where they are counted."""

    place: int
    content: T
    tokens: int = 0


class Channel(Generic[T]):
    """Items on their way from some threads to others.

    It takes one more item as long as those in it weigh less than `room`. An item weighs its tokens,
    and `least` where it has fewer. It ends when each of its `writers` has ended it.
    """

    def __init__(self, room: int, *, least: int = 1, writers: int = 1) -> None:
        self._room = room
        self._least = least
        self._writers = writers
        self._items: deque[Item[T]] = deque()
        self._weight = 0
        self._closed = False
        self._changed = Condition()

    @property
    def over(self) -> bool:
        """Whether no item is left and none will come."""
        with self._changed:
            return self._closed or not (self._items or self._writers)

    def put(self, item: Item[T]) -> bool:
        """Add an item once there is room. False where the channel is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._weight < self._room)
            if not self._closed:
                self._items.append(item)
                self._weight += self._weight_of(item)
                self._changed.notify_all()
            return not self._closed

    def take(self, most: int | None = None, seconds: float | None = None) -> list[Item[T]]:
        """What is there, at most so many items, waiting for the first. Nothing where the channel
        is over, or where no item came in so many seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._items or not self._writers, timeout=seconds
            )
            count = len(self._items) if most is None else min(most, len(self._items))
            taken = [self._items.popleft() for _ in range(count)]
            self._weight -= sum(map(self._weight_of, taken))
            self._changed.notify_all()
            return taken

    def end(self) -> None:
        """Called by each writer that puts no more."""
        with self._changed:
            self._writers -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is there and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _weight_of(self, item: Item[T]) -> int:
        return max(item.tokens, self._least)


class Stream:
    """The threads of one stream. Close it in any case.

    At most `running` batches are with the model at a time; with those that are done but not given
    out they are at most `held`.
    """

    def __init__(self, *, running: int, held: int) -> None:
        self._most_running = running
        self._most_held = held
        self._running = 0
        self._done: deque[EncodedBatch] = deque()
        # nothing more is begun
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._since = 0.0
        self._changed = Condition()
        self._channels: list[Channel[Any]] = []
        self._threads: list[Thread] = []

    def read(self, texts: Iterable[str], *, room: int) -> Channel[str]:
        """Read the texts in a thread, so many ahead."""
        channel: Channel[str] = self._channel(room)

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
        most: int,
        room: int,
        least: int = 1,
        threads: int = 1,
    ) -> Channel[T]:
        """Do some work on at most so many items at once, in threads, ahead of who takes them."""
        channel: Channel[T] = self._channel(room, least=least, writers=threads)

        def run() -> None:
            while items := source.take(most):
                for item in work(items):
                    if not channel.put(item):
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
        """What `encode` makes of the pending batches, as soon as it is made.

        `pool` has the threads of the model. What anything of the stream raises ends it: it is
        raised here once the batches that were submitted are done and given out.
        """

        def run(batch: Batch) -> None:
            try:
                # whoever closed the stream waits for this one
                for done in [] if self._closed else encode(batch):
                    self._give(done)
            # whatever it is, it is for the consumer
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
        """Leave out what was not begun, wait for the batches that were, and end the threads."""
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

    def _channel(self, room: int, *, least: int = 1, writers: int = 1) -> Channel[Any]:
        channel: Channel[Any] = Channel(room, least=least, writers=writers)
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

        # a consumer that forgets the stream does not keep the process from ending
        thread = Thread(target=run, name="stream", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _has_room(self) -> bool:
        """Wait for room for one more batch. False where none is to begin any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._ended
                    or (
                        self._running < self._most_running
                        and self._running + len(self._done) < self._most_held
                    )
                )
            )
            return not self._ended

    def _give(self, done: EncodedBatch) -> None:
        with self._changed:
            now = time.monotonic()
            # several batches run at once: each has the time since the one before was done
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
            # what others raise after it is that they were stopped
            self._error = self._error or error
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def as_filled(
    items: Channel[T],
    *,
    max_texts: int,
    max_tokens: int | None = None,
    patience: float | None = PATIENCE_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Sequence[Item[T]]]:
    """Batches in the order of the items, each as large as it may be.

    One that is not full goes, too, when no item has come for so many seconds: the source may be
    waiting for what it gave. `check` is called between waits, and may raise.
    """
    batch: list[Item[T]] = []
    tokens = 0
    while not items.over:
        check()
        some = items.take(seconds=patience)
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
