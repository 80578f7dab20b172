"""Threads that run the batches of one model at the same time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


class Workers(ABC):
    """A `pool` of `count` threads. `preparers` is how many threads tokenise texts for them."""

    preparers = 1

    def __init__(self, count: int, pool: ThreadPoolExecutor) -> None:
        self.count = count
        self.pool = pool

    @abstractmethod
    def batches(
        self, lengths: Sequence[int], *, max_tokens: int, max_texts: int, taper: bool
    ) -> list[list[int]]:
        """Group the indexes of texts of these lengths into batches.

        With `taper` no more texts follow, so the workers should finish at nearly one time.
        """

    def run(self, work: Callable[[T], None], parts: Iterable[T]) -> None:
        """Run `work` on each part and wait for all. Raises an error of one part afterwards."""
        for done in wait([self.pool.submit(work, part) for part in parts]).done:
            done.result()
