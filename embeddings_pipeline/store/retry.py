"""What to do when the server went away: wait for it, and go on from what is stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import psycopg
from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.stop import stop_base

from embeddings_pipeline.store.connection import NoConnection

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 120
# of one that is there but goes each time: whatever is asked of it may be why
_MOST_LOSSES = 50
# admin_shutdown, crash_shutdown, cannot_connect_now, deadlock_detected, serialization_failure
_PASSING_STATES = ("57P01", "57P02", "57P03", "40P01", "40001")


def resumed(work: Callable[P, T]) -> Callable[P, T]:
    """Do the work again, with growing pauses, when its connection was lost in the middle.

    For work that goes on from what is stored. It takes its connections and locks anew; any other
    error, and a database that stays away for two minutes, ends it.
    """

    @wraps(work)
    def persistent(*args: P.args, **kwargs: P.kwargs) -> T:
        return Retrying(
            retry=retry_if_exception(is_lost_connection),
            wait=wait_exponential_jitter(multiplier=0.1, max=10),
            stop=_StaysAway() | stop_after_attempt(_MOST_LOSSES),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )(work, *args, **kwargs)

    return persistent


def is_lost_connection(error: BaseException) -> bool:
    """Whether the server went away, or ended one of two transactions that wait for each other."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or state in _PASSING_STATES


class _StaysAway(stop_base):
    """Stops once no connection was to be had for so long: work may take hours before it is lost."""

    def __init__(self) -> None:
        self._seen = time.monotonic()

    def __call__(self, retry_state: RetryCallState) -> bool:
        failed = retry_state.outcome and retry_state.outcome.exception()
        if not isinstance(failed, NoConnection):
            self._seen = time.monotonic()
            return False
        return time.monotonic() - self._seen >= _PATIENCE_SECONDS
