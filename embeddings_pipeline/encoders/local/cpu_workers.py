"""Threads that run a model beside one another on a CPU, each with its own share of the cores.

One operation over all cores ends when its slowest core does. On a machine that others use too that
is many times a second; a lane waits for nobody until its batch is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

# more would wait for the interpreter, which starts each operation
_MOST = 8

T = TypeVar("T")


class Lanes:
    """As many threads as torch would take for one operation, at most eight with several each. They
    are those of `pool`."""

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        self.count = min(threads, _MOST)
        ready = Barrier(self.count + 1)
        self.pool = ThreadPoolExecutor(
            self.count,
            thread_name_prefix="lane",
            initializer=_take,
            initargs=(threads // self.count,),
        )
        for _ in range(self.count):
            self.pool.submit(ready.wait)
        ready.wait()
        # torch takes what a thread sets for the default of those that start later
        torch.set_num_threads(threads)

    def run(self, work: Callable[[T], None], parts: Iterable[T]) -> None:
        """Do it with each part; raises what one of them raises, once all are done."""
        for done in wait([self.pool.submit(work, part) for part in parts]).done:
            done.result()


def _take(threads: int) -> None:
    import torch

    # what a thread sets before it has asked once is overwritten by the default
    torch.get_num_threads()
    torch.set_num_threads(threads)
