"""What the benchmarks share: a server of their own, real rows, and one JSON line of output."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from embeddings_pipeline.store.embedded import server as embedded
from tests.support.world import World, world_in

T = TypeVar("T")

PACKAGES = Path("debian_packages") / "debian_packages.csv.gz"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser that takes the data folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="folder that holds debian_packages/")
    return parser


def packages(data: Path) -> list[dict[str, str]]:
    """The rows of the Debian package index; ends the program where they are missing."""
    path = data / PACKAGES
    if not path.exists():
        sys.exit(f"{path} is missing: give the folder that holds it (make bench DATA=FOLDER)")
    csv.field_size_limit(1 << 30)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def world() -> Iterator[World]:
    """An empty database on an embedded server that ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="ep-bench-"))
    folder.chmod(0o755)
    try:
        with world_in(embedded.start(folder)) as world:
            yield world
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of wall clock that the work took, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def peak_memory_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(**figures: object) -> None:
    """Print one JSON line, floats rounded to be read."""
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps(rounded), flush=True)
