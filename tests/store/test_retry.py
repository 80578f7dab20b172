"""Work that is done again when its connection was lost, and when that ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest
import tenacity

from embeddings_pipeline.store.connection import NoConnection
from embeddings_pipeline.store.retry import resumed


class Clock:
    """Time passes only where somebody sleeps."""

    now = 1.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(tenacity.nap, "time", clock)
    return clock


def failing(*errors: Exception) -> Callable[[], int]:
    """Work that fails so, one after the other, and is done then; it returns how often it began."""
    left = [*errors]

    @resumed
    def work() -> int:
        if left:
            raise left.pop(0)
        return len(errors) + 1

    return work


LOST = psycopg.OperationalError("server closed the connection unexpectedly")


def test_a_connection_that_is_lost_is_replaced() -> None:
    assert failing(LOST, LOST)() == 3


@pytest.mark.parametrize(
    "ended",
    [
        psycopg.errors.AdminShutdown,
        psycopg.errors.CrashShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.errors.DatabaseDropped,
        psycopg.errors.IdleSessionTimeout,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.TransactionTimeout,
        psycopg.errors.ConnectionFailure,
        psycopg.errors.ProtocolViolation,
    ],
)
def test_a_session_that_the_server_ends_is_replaced(ended: type[psycopg.Error]) -> None:
    assert failing(ended("terminating connection"), LOST)() == 3


def test_a_database_that_stays_away_is_given_up_after_two_minutes(clock: Clock) -> None:
    begun = clock.now
    with pytest.raises(NoConnection, match="refused"):
        failing(LOST, *[NoConnection("refused")] * 48)()
    # no pause is longer than ten seconds
    assert 120 <= clock.now - begun < 140


def test_a_database_that_goes_each_time_is_given_up() -> None:
    assert failing(*[LOST] * 49)() == 50
    with pytest.raises(psycopg.OperationalError, match="closed"):
        failing(*[LOST] * 50)()


@pytest.mark.parametrize(
    "error", [psycopg.DataError, psycopg.errors.QueryCanceled, psycopg.errors.DiskFull]
)
def test_another_error_ends_it_at_once(error: type[psycopg.Error]) -> None:
    with pytest.raises(error):
        failing(error("bad"), LOST)()


def test_the_wait_for_a_server_begins_when_it_is_first_missed(clock: Clock) -> None:
    away = [NoConnection("refused")]

    @resumed
    def work() -> str:
        if away:
            # an hour of work, and then no server
            clock.sleep(3_600)
            raise away.pop()
        return "done"

    assert work() == "done"
