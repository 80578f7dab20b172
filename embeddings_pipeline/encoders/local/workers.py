"""Threads that run the batches of one model at the same time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

from embeddings_pipeline.encoders.batching import batches_by_length, taper_batches

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
        futures = [self.pool.submit(work, part) for part in parts]
        try:
            wait(futures)
        finally:
            # after Ctrl-C the process would first run all that is left
            for future in futures:
                future.cancel()
        for future in futures:
            future.result()


# the part of a batch that the interpreter does takes turns; more than eight were not measured
_MAX_CPU_WORKERS = 8
# tokens of a worker's batch: a smaller one wastes time
_MIN_TOKENS = 256


class CpuWorkers(Workers):
    """A `pool` of one thread for each thread that torch uses in one operation, at most eight.

    An operation over all cores takes as long as its slowest core. On a machine with other load that
    delay recurs in each operation. Workers on separate cores wait for one another only at the end.
    With more than eight torch threads, each worker uses several.
    """

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        count = min(threads, _MAX_CPU_WORKERS)
        ready = Barrier(count + 1)
        pool = ThreadPoolExecutor(
            count,
            thread_name_prefix="cpu-worker",
            initializer=_limit_threads,
            initargs=(threads // count,),
        )
        try:
            for _ in range(count):
                pool.submit(ready.wait)
        except RuntimeError:
            # a thread could not start, for which the others would wait for ever
            ready.abort()
            raise
        ready.wait()
        # torch makes the number that a thread sets the default of later threads
        torch.set_num_threads(threads)
        super().__init__(count, pool)

    def batches(
        self, lengths: Sequence[int], *, max_tokens: int, max_texts: int, taper: bool
    ) -> list[list[int]]:
        """Group the indexes of texts of like length, longest texts first."""
        # few texts are shared by all workers; of many, no worker ends with a long batch
        share = max(sum(lengths) // self.count + max(lengths), _MIN_TOKENS)
        tokens = min(max_tokens, share)
        batches = batches_by_length(lengths, max_tokens=tokens, max_texts=max_texts, pads=False)
        return taper_batches(batches, workers=self.count) if taper else batches


def _limit_threads(threads: int) -> None:
    import torch

    # torch ignores set_num_threads() in a thread that has not called get_num_threads() first
    torch.get_num_threads()
    torch.set_num_threads(threads)


# a thread may wait for the interpreter's lock while the batches of two others are on the card
_CUDA_WORKERS = 3


class CudaWorkers(Workers):
    """Three threads: one waits for its vectors while the others send their batches."""

    preparers = 2

    def __init__(self) -> None:
        super().__init__(
            _CUDA_WORKERS, ThreadPoolExecutor(_CUDA_WORKERS, thread_name_prefix="cuda-worker")
        )

    def batches(
        self, lengths: Sequence[int], *, max_tokens: int, max_texts: int, taper: bool
    ) -> list[list[int]]:
        """Group the indexes of texts of like length: the longest decides how attention runs."""
        del taper
        return batches_by_length(lengths, max_tokens=max_tokens, max_texts=max_texts, pads=False)
