"""Adapts the number of requests in flight to what an endpoint can take."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# requests in flight before anything is known of the endpoint
_FIRST = 4
# the limit grows where answers take at most twice as long as the quickest one, and shrinks where
# they take more than four times as long: then requests wait in the endpoint's own queue
_GROW, _SHRINK = 2, 4
# no quicker answer is believed, since a busy machine adds as much
_LEAST_SECONDS = 0.05
# share of the newest answer in what answers take
_NEWEST = 1 / 8


class InFlight:
    """Lets in at most `limit` requests at a time, a number from 1 to `most`.

    As in TCP Vegas, the limit grows by one a round while answers take hardly longer than the
    quickest one, and shrinks while they take much longer. A refusal for load halves it. Used from
    one event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(_FIRST, most))
        self._sending = 0
        self._changed = asyncio.Event()
        self._quickest = math.inf
        self._seconds = 0.0
        self._tokens = 0
        self._halved_at = -math.inf

    @property
    def limit(self) -> int:
        """The most requests in flight now."""
        return round(self._limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until a request may be sent; it is in flight until the end of the block."""
        while self._sending >= self.limit:
            self._changed.clear()
            await self._changed.wait()
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            self._changed.set()

    def answered(self, tokens: int, seconds: float) -> None:
        """Learn from an answer to a request of `tokens` tokens, while it still has its slot."""
        seconds = max(seconds, _LEAST_SECONDS)
        if tokens > 2 * self._tokens:
            self._tokens, self._quickest, self._seconds = tokens, seconds, seconds
        if 2 * tokens < self._tokens:
            # a short request says nothing of how long the others take
            return
        self._quickest = min(self._quickest, seconds)
        self._seconds += _NEWEST * (seconds - self._seconds)
        if self._seconds > _SHRINK * self._quickest:
            if self._limit == 1:
                # nothing of ours waits in its queue: the endpoint itself has become slower
                self._quickest = self._seconds
            self._limit = max(1.0, self._limit - 1 / self._limit)
        elif self._seconds <= _GROW * self._quickest and self._sending >= self.limit:
            self._limit = min(float(self._most), self._limit + 1 / self._limit)

    def refused(self, sent_at: float) -> None:
        """Learn that a request, sent at this time of the monotonic clock, was refused for load."""
        # those that were in flight together are refused together
        if sent_at > self._halved_at:
            self._halved_at = time.monotonic()
            self._limit = max(1.0, self._limit / 2)
