"""Files that several processes use at once: locks, and writes that no reader sees half done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

from embeddings_pipeline.errors import ConfigurationError

_POLL_SECONDS = 0.05


@contextmanager
def lock(path: Path, *, seconds: float, busy: str) -> Iterator[int]:
    """Hold a lock between processes, and threads, on a file that is made and stays.

    Yields the file's descriptor: a child process that inherits it keeps the lock until it ends,
    even when its parent is killed. Raises ConfigurationError that says `busy` and names the file
    where the lock is not to be had within the seconds.
    """
    # slow to import, and most commands need no lock
    from filelock import lock_descriptor

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not lock_descriptor(descriptor, blocking=False):
            if time.monotonic() >= deadline:
                raise ConfigurationError(f"{busy}: wait for it, or end what holds {path}")
            time.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        # not unlocked, as FileLock would: that takes the lock from the children too
        os.close(descriptor)


def write_atomically(path: Path, data: str | bytes, *, mode: Literal[0o600, 0o644] = 0o644) -> None:
    """Write a file in one step that a crash of the machine does not undo.

    Who is killed half-way leaves the old file, and beside it one whose name is this one's with a
    suffix.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are safe on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
