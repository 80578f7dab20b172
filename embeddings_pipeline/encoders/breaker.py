"""Leaves out what fails, so that it is neither waited for nor complained of again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

# after a failure, before it is tried again
_PAUSE_SECONDS = 5.0


class Breaker:
    """Runs one kind of work on a service that is not needed for the result to be right.

    `errors` counts the failures, `bypassed` the calls that were spared one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failing = False
        self._closed_at = 0.0
        self.errors = 0
        self.bypassed = 0

    @property
    def is_open(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._closed_at

    def run(self, work: Callable[[], T]) -> T | None:
        """What the work returns; None where it fails, or failed a moment ago."""
        if self.is_open:
            self.bypassed += 1
            return None
        try:
            result = work()
        # a server may answer anything at all, and the client then raises anything
        except Exception as error:
            self._fail(error)
            return None
        if self._failing:
            logger.info("%s works again", self._name)
        self._failing = False
        return result

    def _fail(self, error: Exception) -> None:
        self.errors += 1
        self._closed_at = time.monotonic() + _PAUSE_SECONDS
        if not self._failing:
            logger.warning(
                "%s does not work and is left out until it does: %s: %s",
                *(self._name, type(error).__name__, error),
            )
        self._failing = True
