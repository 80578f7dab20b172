from __future__ import annotations

import subprocess
import sys
from threading import Barrier, current_thread

import pytest

from embeddings_pipeline.encoders.local.cpu_workers import Lanes


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


def test_every_part_is_done_by_one_of_the_lanes(lanes: Lanes) -> None:
    done: dict[int, str] = {}

    def work(part: int) -> None:
        done[part] = current_thread().name

    lanes.run(work, range(100))
    assert sorted(done) == [*range(100)]
    assert all(name.startswith("lane") for name in done.values())


def test_lanes_work_beside_one_another(lanes: Lanes) -> None:
    together = Barrier(lanes.count)
    # it ends only if all of them come to it
    lanes.run(lambda _: together.wait(30) and None, range(lanes.count))


def test_what_a_part_raises_is_raised_when_the_others_are_done(lanes: Lanes) -> None:
    done: list[int] = []

    def work(part: int) -> None:
        if part == 0:
            raise ValueError("part 0")
        done.append(part)

    with pytest.raises(ValueError, match="part 0"):
        lanes.run(work, range(50))
    assert sorted(done) == [*range(1, 50)]


@pytest.mark.parametrize(("threads", "count", "each"), [(1, 1, 1), (4, 4, 1), (16, 8, 2)])
def test_lanes_share_the_cores_and_leave_the_others_theirs(
    threads: int, count: int, each: int
) -> None:
    program = f"""
import threading, torch
from embeddings_pipeline.encoders.local.cpu_workers import Lanes
torch.set_num_threads({threads})
lanes = Lanes()
shares = []
lanes.run(lambda _: shares.append(torch.get_num_threads()), range(100))
later = threading.Thread(target=lambda: shares.append(torch.get_num_threads()))
later.start()
later.join()
print(lanes.count, set(shares[:-1]), shares[-1], torch.get_num_threads())
"""
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert told == f"{count} {{{each}}} {threads} {threads}\n"
