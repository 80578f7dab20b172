"""Threads that run a model in parallel on a CPU, each on its own share of the cores.

An operation over all cores takes as long as its slowest core. On a machine with other load that
delay recurs in each operation. Workers on separate cores wait for one another only at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

# more workers would wait for the interpreter's lock, which each operation takes
_MAX_WORKERS = 8

T = TypeVar("T")


class CpuWorkers:
    """A `pool` of one thread for each thread that torch uses in one operation, at most eight.

    With more than eight torch threads, each worker uses several.
    """

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        self.count = min(threads, _MAX_WORKERS)
        ready = Barrier(self.count + 1)
        self.pool = ThreadPoolExecutor(
            self.count,
            thread_name_prefix="cpu-worker",
            initializer=_limit_threads,
            initargs=(threads // self.count,),
        )
        for _ in range(self.count):
            self.pool.submit(ready.wait)
        ready.wait()
        # torch makes the number that a thread sets the default of later threads
        torch.set_num_threads(threads)

    def run(self, work: Callable[[T], None], parts: Iterable[T]) -> None:
        """Run `work` on each part and wait for all. Raises an error of one part afterwards."""
        for done in wait([self.pool.submit(work, part) for part in parts]).done:
            done.result()


def _limit_threads(threads: int) -> None:
    import torch

    # torch ignores set_num_threads() in a thread that has not called get_num_threads() first
    torch.get_num_threads()
    torch.set_num_threads(threads)
