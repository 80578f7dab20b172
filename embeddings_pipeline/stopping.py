"""Stops a run in order after a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_signals() -> Iterator[Callable[[], bool]]:
    """A function that returns whether SIGINT or SIGTERM was received. A second signal interrupts at
    once. Outside the main thread, which receives the signals, the function returns False."""
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
