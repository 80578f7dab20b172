"""Lets a run that was asked to stop end in order."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_signals() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGINT or SIGTERM came. A second signal interrupts at
    once. In a thread that gets no signals the function is always False."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received = False

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        restore()
        sys.stderr.write("stopping; once more to stop at once\n")

    for number in former:
        signal.signal(number, note)
    try:
        yield lambda: received
    finally:
        restore()
