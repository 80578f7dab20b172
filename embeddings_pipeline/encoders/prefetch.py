"""Runs work that waits for disks and networks in threads, ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice, repeat
from typing import Any, TypeVar

from embeddings_pipeline.errors import RowError

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, depth: int
) -> Generator[Result, None, None]:
    """Yield the result of `work` for each item, in order. Raises an error of `work` in its turn.

    While one result is taken, at most `depth` more are running or finished. Close the generator to
    end early.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    try:
        left = iter(items)
        running: deque[Future[Result]] = deque(
            pool.submit(work, item) for item in islice(left, depth)
        )
        while running:
            done = running.popleft().result()
            running.extend(pool.submit(work, item) for item in islice(left, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_iterator(items: Iterator[Result], *, depth: int) -> Generator[Result, None, None]:
    """Yield the items of an iterator, which one thread advances at most `depth` items ahead.

    Close this generator before the source of the items.
    """
    end = object()
    made: Generator[Any, None, None] = prefetch(
        lambda _: next(items, end), repeat(None), threads=1, depth=depth
    )
    with closing(made):
        for item in made:
            if item is end:
                return
            yield item


def capture_row_error(work: Callable[[Item], Result]) -> Callable[[Item], Result | RowError]:
    """Return a function like `work` that returns a RowError instead of raising it."""

    def attempt(item: Item) -> Result | RowError:
        try:
            return work(item)
        except RowError as error:
            return error

    return attempt
