"""Keeps the requests of all processes together within a provider's limits per minute."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any

from embeddings_pipeline.errors import EmbeddingsError

if TYPE_CHECKING:
    from psycopg import Connection

# opens a transaction in the database that all processes share
Transaction = Callable[[], AbstractContextManager["Connection[Any]"]]

# pyrate-limiter keeps a row for each unit, so a minute's tokens are counted in at most this many
_PARTS = 10_000
# interval at which a waiting thread checks whether it should stop
_STEP_SECONDS = 1.0


class RateLimits:
    """Limits requests and tokens per minute, counted in database tables created on first use."""

    def __init__(
        self, transaction: Transaction, *, requests: int | None, tokens: int | None
    ) -> None:
        self._transaction = transaction
        self._requests = requests
        self._tokens = tokens

    def wait(self, tokens: int, stopped: Event) -> None:
        """Wait until a request of `tokens` tokens may be sent. Raises EmbeddingsError once stopped.

        A request of more tokens than the limit takes a whole minute's tokens.
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
    """A limit of `limit` units per minute."""

    def __init__(self, transaction: Transaction, name: str, limit: int) -> None:
        from pyrate_limiter import Duration, Limiter, PostgresBucket, Rate
        from pyrate_limiter.limiter import SingleBucketFactory

        self.limit = limit
        rates = [Rate(limit, Duration.MINUTE)]
        self._bucket = PostgresBucket(_Pool(transaction), name, rates)  # type: ignore[arg-type]
        # the library's thread for expired units would outlive the closed pool
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
    """The part of a connection pool that pyrate-limiter uses."""

    connection: Transaction
