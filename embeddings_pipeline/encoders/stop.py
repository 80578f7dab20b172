"""An event that may also be asked for from elsewhere, as a signal does."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

# how often whoever waits looks whether it should stop
_STEP_SECONDS = 0.5


class Stop(Event):
    """Set once it is set, or once `asked` says so. A handler of signals may set no event itself:
    the thread that it interrupts may hold the event's lock."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        super().__init__()
        self._asked = asked

    def is_set(self) -> bool:
        """Whether to stop."""
        return super().is_set() or self._asked()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait so many seconds, or until it is set; whether it is."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left := until - time.monotonic()) > 0:
            super().wait(min(left, _STEP_SECONDS))
        return self.is_set()
