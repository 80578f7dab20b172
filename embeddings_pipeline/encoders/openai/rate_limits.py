"""Keeps all processes of the project together within what a provider allows in a minute."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from embeddings_pipeline.errors import EmbeddingsError

if TYPE_CHECKING:
    from psycopg import Connection

# opens a transaction in the database that the processes share
Transaction = Callable[[], AbstractContextManager["Connection[Any]"]]

# the library keeps a row for each unit: a minute's tokens are counted in at most so many parts
_PARTS = 10_000
# how often a thread that waits looks whether it should stop
_STEP_SECONDS = 1.0


class RateLimits(Protocol):
    """Lets requests through, at a rate."""

    def wait(self, tokens: int, stopped: Event) -> None:
        """Return when a request of so many tokens may go; raise EmbeddingsError once stopped."""


class NoLimits:
    """Lets every request through at once."""

    def wait(self, tokens: int, stopped: Event) -> None:
        """Return."""


class SharedLimits:
    """Requests and tokens a minute, counted in tables of the database; the first use makes them."""

    def __init__(
        self, transaction: Transaction, *, requests: int | None, tokens: int | None
    ) -> None:
        self._transaction = transaction
        self._requests = requests
        self._tokens = tokens

    def wait(self, tokens: int, stopped: Event) -> None:
        """Return when a request of so many tokens may go; raise EmbeddingsError once stopped.

        A request of more tokens than a minute has takes all of them.
        """
        if self._tokens:
            limit = self._token_bucket.limit
            parts = math.ceil(max(tokens, 1) * limit / self._tokens)
            self._token_bucket.take(min(parts, limit), stopped)
        if self._requests:
            self._request_bucket.take(1, stopped)

    @cached_property
    def _token_bucket(self) -> _Bucket:
        return _Bucket(self._transaction, "tokens", min(self._tokens or 1, _PARTS))

    @cached_property
    def _request_bucket(self) -> _Bucket:
        return _Bucket(self._transaction, "requests", self._requests or 1)


class _Bucket:
    """So many units a minute."""

    def __init__(self, transaction: Transaction, name: str, limit: int) -> None:
        from pyrate_limiter import Duration, Limiter, PostgresBucket, Rate
        from pyrate_limiter.limiter import SingleBucketFactory

        self.limit = limit
        rates = [Rate(limit, Duration.MINUTE)]
        self._bucket = PostgresBucket(_Pool(transaction), name, rates)  # type: ignore[arg-type]
        # the library's own thread for expired units would go on after the pool is closed
        self._limiter = Limiter(SingleBucketFactory(self._bucket, schedule_leak=False))

    def take(self, units: int, stopped: Event) -> None:
        self._bucket.leak(self._bucket.now())  # type: ignore[no-untyped-call]
        while not stopped.is_set():
            try:
                if self._limiter.try_acquire(weight=units, timeout=_STEP_SECONDS):
                    return
            except TimeoutError:
                continue
        raise EmbeddingsError("stopped while waiting for the rate limits")


@dataclass(frozen=True)
class _Pool:
    """As much of a pool as the library needs."""

    connection: Transaction
