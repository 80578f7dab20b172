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
) -> Generator[Result | RowError, None, None]:
    """The results in order, a RowError that `work` raised among them; anything else is raised.

    At most `depth` of them are begun or done and not yet taken. Close it to end early.
    """

    def attempt(item: Item) -> Result | RowError:
        try:
            return work(item)
        except RowError as error:
            return error

    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        left = iter(items)
        running: deque[Future[Result | RowError]] = deque(
            pool.submit(attempt, item) for item in islice(left, depth)
        )
        while running:
            done = running.popleft().result()
            running.extend(pool.submit(attempt, item) for item in islice(left, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
