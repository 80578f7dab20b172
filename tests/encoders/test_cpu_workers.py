from __future__ import annotations

import subprocess
import sys
from threading import Barrier, Event, current_thread

import pytest

from embeddings_pipeline.encoders.local import workers as workers_module
from embeddings_pipeline.encoders.local.workers import CpuWorkers


@pytest.fixture
def workers() -> CpuWorkers:
    return CpuWorkers()


def test_every_part_is_done_by_one_of_the_workers(workers: CpuWorkers) -> None:
    done: dict[int, str] = {}

    def work(part: int) -> None:
        done[part] = current_thread().name

    workers.run(work, range(100))
    assert sorted(done) == [*range(100)]
    assert all(name.startswith("cpu-worker") for name in done.values())


def test_a_batch_is_as_large_as_the_setting_allows(workers: CpuWorkers) -> None:
    batches = workers.batches([100] * 400, max_tokens=4096, max_texts=400, taper=False)
    assert len(batches[0]) == 40


def test_workers_work_beside_one_another(workers: CpuWorkers) -> None:
    together = Barrier(workers.count)

    def meet(part: int) -> None:
        # it ends only if all of them come to it
        together.wait(30)

    workers.run(meet, range(workers.count))


def test_what_a_part_raises_is_raised_when_the_others_are_done(workers: CpuWorkers) -> None:
    done: list[int] = []

    def work(part: int) -> None:
        if part == 0:
            raise ValueError("part 0")
        done.append(part)

    with pytest.raises(ValueError, match="part 0"):
        workers.run(work, range(50))
    assert sorted(done) == [*range(1, 50)]


def test_an_interrupted_run_leaves_the_parts_that_have_not_begun(
    workers: CpuWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()
    done: list[int] = []

    def work(part: int) -> None:
        go_on.wait(30)
        done.append(part)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers_module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.run(work, range(50))
    go_on.set()
    workers.pool.shutdown()
    assert len(done) <= workers.count


def test_a_process_in_which_no_thread_can_start_ends() -> None:
    program = """
import threading, torch
from embeddings_pipeline.encoders.local.workers import CpuWorkers
torch.set_num_threads(4)
start, begun = threading.Thread.start, []

def limited(thread):
    if begun:
        raise RuntimeError("can't start new thread")
    begun.append(thread)
    start(thread)

threading.Thread.start = limited
CpuWorkers()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "RuntimeError: can't start new thread"


@pytest.mark.parametrize(("threads", "count", "each"), [(1, 1, 1), (4, 4, 1), (16, 8, 2)])
def test_workers_share_the_cores_and_leave_the_others_theirs(
    threads: int, count: int, each: int
) -> None:
    program = f"""
import threading, torch
from embeddings_pipeline.encoders.local.workers import CpuWorkers
torch.set_num_threads({threads})
workers = CpuWorkers()
shares = []
workers.run(lambda _: shares.append(torch.get_num_threads()), range(100))
later = threading.Thread(target=lambda: shares.append(torch.get_num_threads()))
later.start()
later.join()
print(workers.count, set(shares[:-1]), shares[-1], torch.get_num_threads())
"""
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert told == f"{count} {{{each}}} {threads} {threads}\n"
