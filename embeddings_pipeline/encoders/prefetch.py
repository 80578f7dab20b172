"""Does in threads, ahead of who takes the results, what waits for disks and networks."""

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
    """The results in order; what `work` raises is raised in its turn.

    While one is taken, at most `depth` more are begun or done. Close it to end early.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
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


def prefetched(items: Iterator[Result], *, depth: int) -> Generator[Result, None, None]:
    """The same items, each made in one thread while those before it are taken; `depth` at most are
    made in advance. Close it before what the items come from."""
    end = object()
    made: Generator[Any, None, None] = prefetch(
        lambda _: next(items, end), repeat(None), threads=1, depth=depth
    )
    with closing(made):
        for item in made:
            if item is end:
                return
            yield item


def attempted(work: Callable[[Item], Result]) -> Callable[[Item], Result | RowError]:
    """The same work, with a RowError given back rather than raised."""

    def attempt(item: Item) -> Result | RowError:
        try:
            return work(item)
        except RowError as error:
            return error

    return attempt
