"""The server process of a cluster, and the cleanup after a crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

SECONDS_FOR_ORPHANS = 10


class Postmaster(NamedTuple):
    process: psutil.Process
    port: int
    ready: bool


def find(cluster: Path) -> Postmaster | None:
    """The process of postmaster.pid; None where the PID belongs to another process."""
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
        process, port = psutil.Process(int(lines[0])), int(lines[3])
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    if not _serves(process, cluster):
        return None
    return Postmaster(process, port, ready=[line.strip() for line in lines[7:8]] == ["ready"])


def is_changing(cluster: Path) -> bool:
    """Whether a server is starting or stopping."""
    server = find(cluster)
    return server is not None and not server.ready


def clear(cluster: Path) -> None:
    """Clean up after a crash: end orphaned backends, then remove postmaster.pid."""

    def orphans() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _serves(process, cluster)]

    if not wait(lambda: not orphans(), SECONDS_FOR_ORPHANS):
        for process in orphans():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait(lambda: not orphans(), SECONDS_FOR_ORPHANS)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def log_tail(cluster: Path) -> str:
    """The last lines of the server's log."""
    try:
        lines = (cluster / "server.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no server log)"
    return "\n".join(lines[-15:])


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition; False where it is not true within this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _serves(process: psutil.Process, cluster: Path) -> bool:
    try:
        return process.name() == "postgres" and os.path.samefile(process.cwd(), cluster)
    except (psutil.Error, OSError):
        return False
