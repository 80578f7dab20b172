"""The threads of a stream of encoded batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count, repeat
from threading import Barrier, Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embeddings_pipeline.encoders.encoder import EncodedBatch
from embeddings_pipeline.encoders.stream import Item, Stream, encode_batch, fill_batches
from tests.support.streaming import SECONDS, Source, lengths_of, streamed, threads_of_streams
from tests.support.waiting import until

TEXTS = ["x" * n for n in range(1, 101)]

Batch = Sequence[Item[str]]


def encode(batch: Batch) -> list[EncodedBatch]:
    texts = [item.content for item in batch]
    return [encode_batch([item.place for item in batch], lambda: lengths_of(texts))]


def stream_of(
    texts: Iterable[str],
    encode: Callable[[Batch], Iterable[EncodedBatch]] = encode,
    *,
    size: int = 5,
    threads: int = 2,
    held: int = 4,
    prepare: Callable[[list[Item[str]]], Iterable[Item[str]]] = list,
    preparing: int = 1,
    pool: ThreadPoolExecutor | None = None,
) -> Generator[EncodedBatch, None, None]:
    """Batches of `size` texts; `size` texts are read at a time, and `size` are prepared ahead."""
    with ExitStack() as stack:
        pool = stack.enter_context(pool or ThreadPoolExecutor(threads))
        stream = stack.enter_context(closing(Stream(max_running=threads, max_held=held)))
        read = stream.read(texts, capacity=size)
        prepared = stream.stage(prepare, read, max_items=size, capacity=size, threads=preparing)
        yield from stream.batches(fill_batches(prepared, max_texts=size), encode, pool)


class Noting(ThreadPoolExecutor):
    """Threads of a model; `ended` is set once the first batch is done with, or its error known."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.ended = Event()

    def submit(self, work: Any, /, *args: Any, **options: Any) -> Future[Any]:
        def noted() -> None:
            work(*args)
            self.ended.set()

        return super().submit(noted)


def test_each_place_comes_out_once_with_the_vector_of_its_text() -> None:
    done = streamed(stream_of(TEXTS, preparing=3))
    assert done.raised is None
    assert done.places == [*range(100)]
    np.testing.assert_array_equal(done.vectors(1)[:, 0], range(1, 101))
    assert done.usage.texts == 100


def test_no_texts_have_no_batches() -> None:
    assert streamed(stream_of([])) == ([], None)


def test_batches_come_out_while_the_next_text_is_waited_for() -> None:
    source = Source(TEXTS, pause=50)
    # it goes on only once all that it gave has come out
    batches = stream_of(source)
    first = [place for _ in range(10) for place in next(batches).places]
    assert sorted(first) == [*range(50)]
    source.go_on.set()
    assert streamed(batches).places == [*range(50, 100)]


def test_a_batch_that_is_not_full_goes_where_the_source_waits_for_it() -> None:
    source = Source(TEXTS, pause=52)
    batches = stream_of(source, size=20)
    given: list[int] = []
    while len(given) < 52:
        given += next(batches).places
    assert sorted(given) == [*range(52)]
    source.go_on.set()
    assert streamed(batches).places == [*range(52, 100)]


def test_batches_run_beside_one_another_but_no_more_than_told() -> None:
    three = Barrier(3)

    def meet(batch: Batch) -> list[EncodedBatch]:
        three.wait(SECONDS)
        return encode(batch)

    # twelve batches: it ends only if three of them are always at it
    assert len(streamed(stream_of(TEXTS[:60], meet, threads=3)).batches) == 12


def test_a_slow_batch_holds_up_none_of_the_others() -> None:
    others = Event()

    def first_is_slow(batch: Batch) -> list[EncodedBatch]:
        assert batch[0].place != 0 or others.wait(SECONDS)
        return encode(batch)

    batches = stream_of(TEXTS, first_is_slow)
    given = [place for _ in range(19) for place in next(batches).places]
    assert sorted(given) == [*range(5, 100)]
    others.set()
    assert streamed(batches).places == [*range(5)]


def test_nothing_goes_on_while_the_consumer_asks_for_nothing() -> None:
    source = Source(repeat("text"))
    begun: list[int] = []

    def noted(batch: Batch) -> list[EncodedBatch]:
        begun.append(len(batch))
        return encode(batch)

    with closing(stream_of(source, noted, size=5, held=4)) as batches:
        next(batches)
        # the batch that was given out and four that are held; what is prepared and what is read;
        # and at most another batch that is cut, with what came along, and what is in between
        least, more = 5 * (1 + 4) + 5 + 5 + 1, 2 * 5 + 5
        until(lambda: len(begun) == 1 + 4 and source.read >= least)
        assert source.read <= least + more
        for _ in range(3):
            next(batches)
        until(lambda: len(begun) == 1 + 4 + 3 and source.read >= least + 3 * 5)
    assert len(begun) == 1 + 4 + 3
    assert source.read <= least + more + 3 * 5


def test_what_the_source_raises_comes_after_what_was_begun() -> None:
    begun, raised = Event(), Event()

    def failing() -> Iterator[str]:
        yield from TEXTS[:5]
        assert begun.wait(SECONDS)
        raised.set()
        raise ValueError("the source is broken")

    def slow(batch: Batch) -> list[EncodedBatch]:
        begun.set()
        assert raised.wait(SECONDS)
        return encode(batch)

    done = streamed(stream_of(failing(), slow))
    assert done.places == [*range(5)]
    assert str(done.raised) == "the source is broken"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("where", ["source", "stage", "model"])
def test_whatever_a_thread_raises_reaches_the_consumer(
    where: str, kind: type[BaseException]
) -> None:
    def source() -> Iterator[str]:
        yield from TEXTS
        if where == "source":
            raise kind("of a thread")

    def prepare(items: list[Item[str]]) -> list[Item[str]]:
        if where == "stage" and items[-1].place > 50:
            raise kind("of a thread")
        return items

    def run(batch: Batch) -> list[EncodedBatch]:
        if where == "model" and batch[-1].place > 50:
            raise kind("of a thread")
        return encode(batch)

    done = streamed(stream_of(source(), run, prepare=prepare))
    assert isinstance(done.raised, kind)
    assert str(done.raised) == "of a thread"
    assert len(done.places) < 100
    assert threads_of_streams() == []


def test_an_error_of_the_model_ends_it_once_what_was_begun_came_out() -> None:
    pool, second = Noting(2), Event()
    begun: list[int] = []

    def run(batch: Batch) -> Iterator[EncodedBatch]:
        begun.append(batch[0].place)
        if batch[0].place == 0:
            assert second.wait(SECONDS)
            # what became of a part of it
            yield from encode(batch[:2])
            raise ValueError("the model is gone")
        second.set()
        assert pool.ended.wait(SECONDS)
        yield from encode(batch)

    done = streamed(stream_of(TEXTS, run, pool=pool))
    assert str(done.raised) == "the model is gone"
    assert done.places == [0, 1, *range(5, 10)]
    assert sorted(begun) == [0, 5]


def test_nothing_is_begun_after_an_error_though_the_source_goes_on() -> None:
    source = Source(TEXTS, pause=10)
    begun: list[int] = []
    pool, second = Noting(3), Event()

    def run(batch: Batch) -> list[EncodedBatch]:
        begun.append(batch[0].place)
        if batch[0].place == 0:
            # a third thread would take what comes next
            assert second.wait(SECONDS)
            assert source.waiting.wait(SECONDS)
            raise ValueError("the model is gone")
        second.set()
        assert pool.ended.wait(SECONDS)
        source.go_on.set()
        # what can be read ahead is read, and so the next batch was cut
        until(lambda: source.read > 20)
        return encode(batch)

    done = streamed(stream_of(source, run, threads=3, pool=pool))
    assert (done.places, str(done.raised)) == ([*range(5, 10)], "the model is gone")
    assert sorted(begun) == [0, 5]


def test_an_error_comes_although_the_source_waits() -> None:
    source = Source(TEXTS, pause=5)

    def fail(batch: Batch) -> list[EncodedBatch]:
        raise ValueError("the model is gone")

    assert str(streamed(stream_of(source, fail)).raised) == "the model is gone"
    source.go_on.set()
    until(lambda: not threads_of_streams())
    assert source.read == 6


def test_closing_leaves_out_what_was_not_begun_and_ends_the_threads() -> None:
    begun: list[int] = []
    first, go_on = Event(), Event()

    def run(batch: Batch) -> list[EncodedBatch]:
        begun.append(batch[0].place)
        if len(begun) > 1:
            first.set()
            assert go_on.wait(SECONDS)
        return encode(batch)

    # one thread for two batches: the second is begun when the first is closed
    with ThreadPoolExecutor(1) as pool:
        stream = Stream(max_running=2, max_held=4)
        items = stream.read(repeat("text"), capacity=5)
        batches = stream.batches(fill_batches(items, max_texts=5), run, pool)
        next(batches)
        assert first.wait(SECONDS)
        with ThreadPoolExecutor(1) as closer:
            closed = closer.submit(stream.close)
            until(lambda: not threads_of_streams())
            assert not closed.done()
            go_on.set()
            closed.result(SECONDS)
    assert len(begun) == 2


def test_closing_leaves_a_source_that_waits_to_itself() -> None:
    source = Source(map(str, count()), pause=20)
    batches = stream_of(source)
    next(batches)
    assert source.waiting.wait(SECONDS)
    batches.close()
    assert threads_of_streams() == ["stream"]
    source.go_on.set()
    until(lambda: not threads_of_streams())
    assert source.read == 21


def test_seconds_are_those_in_which_the_model_was_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("embeddings_pipeline.encoders.stream.time", clock)
    two = Barrier(2)

    def run(batch: Batch) -> Iterator[EncodedBatch]:
        nonlocal now
        if two.wait(SECONDS) == 0:
            now += 10
        two.wait(SECONDS)
        yield from encode(batch)
        # the next pair begins when both are done
        two.wait(SECONDS)

    source = Source(TEXTS[:40], pause=20)
    with ThreadPoolExecutor(2) as pool, closing(Stream(max_running=2, max_held=4)) as stream:
        batches = stream.batches(
            fill_batches(stream.read(source, capacity=5), max_texts=5), run, pool
        )
        first = [next(batches) for _ in range(4)]
        # each thread comes here, and so is done with its batch
        assert {*pool.map(lambda _: two.wait(SECONDS), range(2))} == {0, 1}
        # while nothing runs, no time is counted
        now += 1_000
        source.go_on.set()
        rest = [*batches]
    seconds = [batch.encodings.usage.seconds for batch in [*first, *rest]]
    assert sum(seconds) == 40
    assert sorted(seconds) == [0] * 4 + [10] * 4


def test_batches_are_filled_in_order_by_texts_and_tokens() -> None:
    tokens = [3, 3, 3, 9, 20, 1, 1, 1, 1, 1]
    with closing(Stream(max_running=1, max_held=1)) as stream:
        items = stream.stage(
            lambda read: [item._replace(tokens=tokens[item.place]) for item in read],
            stream.read(map(str, tokens), capacity=99),
            max_items=99,
            capacity=99,
        )
        batches = [*fill_batches(items, max_texts=4, max_tokens=10)]
    places = [[item.place for item in batch] for batch in batches]
    assert places == [[0, 1, 2], [3], [4], [5, 6, 7, 8], [9]]
