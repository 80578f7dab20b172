"""Threads that run a model in parallel on a CPU, each on its own share of the cores.

An operation over all cores takes as long as its slowest core. On a machine with other load that
delay recurs in each operation. Workers on separate cores wait for one another only at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from embeddings_pipeline.encoders.batching import batches_by_length, taper_batches
from embeddings_pipeline.encoders.local.workers import Workers

# more workers would wait for the interpreter's lock, which each operation takes
_MAX_WORKERS = 8
# tokens of a worker's batch: a smaller batch wastes time, a larger one is no faster
_MIN_TOKENS, _MAX_TOKENS = 256, 512


class CpuWorkers(Workers):
    """A `pool` of one thread for each thread that torch uses in one operation, at most eight.

    With more than eight torch threads, each worker uses several.
    """

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        count = min(threads, _MAX_WORKERS)
        ready = Barrier(count + 1)
        pool = ThreadPoolExecutor(
            count,
            thread_name_prefix="cpu-worker",
            initializer=_limit_threads,
            initargs=(threads // count,),
        )
        for _ in range(count):
            pool.submit(ready.wait)
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
        tokens = min(max_tokens, share, _MAX_TOKENS)
        batches = batches_by_length(lengths, max_tokens=tokens, max_texts=max_texts)
        return taper_batches(batches, workers=self.count) if taper else batches


def _limit_threads(threads: int) -> None:
    import torch

    # torch ignores set_num_threads() in a thread that has not called get_num_threads() first
    torch.get_num_threads()
    torch.set_num_threads(threads)
