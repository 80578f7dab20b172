"""Does in threads, ahead of who takes the results, what waits for disks and networks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from embeddings_pipeline.errors import RowError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
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


def attempted(work: Callable[[Item], Result]) -> Callable[[Item], Result | RowError]:
    """The same work, with a RowError given back rather than raised."""

    def attempt(item: Item) -> Result | RowError:
        try:
            return work(item)
        except RowError as error:
            return error

    return attempt
