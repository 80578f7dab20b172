"""Retries after a lost connection: waits for the server, and continues from the stored state."""

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
    retry,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.stop import stop_base

from embeddings_pipeline.store.connection import NoConnection
from embeddings_pipeline.store.tables import SetDropped

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 120
# a server that fails again and again may fail because of the work itself
_MAX_ATTEMPTS = 50
# connection exceptions; sessions that the server ended (class 57P, and the timeouts of idle and of
# long transactions); deadlock_detected, serialization_failure
_TRANSIENT_STATES = ("08", "57P", "25P03", "25P04", "40P01", "40001")


def resumed(work: Callable[P, T]) -> Callable[P, T]:
    """Repeat the work, with growing pauses, when its connection is lost.

    For work that continues from the stored state and takes its own connections and locks. Any other
    error ends the work, and so does a database that is unavailable for two minutes. Work that
    comes after that, to clean up, does not wait for it again.
    """

    @wraps(work)
    def retried(*args: P.args, **kwargs: P.kwargs) -> T:
        return Retrying(
            retry=retry_if_exception(is_lost_connection),
            wait=wait_exponential_jitter(multiplier=0.1, max=10),
            stop=_UnavailableTooLong() | stop_after_attempt(_MAX_ATTEMPTS),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )(work, *args, **kwargs)

    return retried


# repeats a read where another run drops a vector set meanwhile: for work that begins by reading
# which sets there are
read_again = retry(
    retry=retry_if_exception_type(SetDropped), stop=stop_after_attempt(5), reraise=True
)


def is_lost_connection(error: BaseException) -> bool:
    """Whether the connection was lost, or the transaction was ended by a deadlock or a conflict."""
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return error.sqlstate.startswith(_TRANSIENT_STATES)
    return isinstance(error, psycopg.OperationalError)


class _UnavailableTooLong(stop_base):
    """Stops when no connection was available for two minutes. Time at work does not count, because
    work may take hours before its connection is lost."""

    def __init__(self) -> None:
        self._away_since: float | None = None

    def __call__(self, retry_state: RetryCallState) -> bool:
        failed = retry_state.outcome and retry_state.outcome.exception()
        if not isinstance(failed, NoConnection):
            self._away_since = None
            return False
        now = time.monotonic()
        self._away_since = min(self._away_since or now, failed.since or now)
        return now - self._away_since >= _PATIENCE_SECONDS
