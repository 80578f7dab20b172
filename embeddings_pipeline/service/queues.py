"""Queues for the work of requests, one for each kind of work, so that none stalls the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Depends, HTTPException, Request

from embeddings_pipeline.service.auth import Key
from embeddings_pipeline.service.documents import CALL_SECONDS, PATIENCE_SECONDS

# time after which a request is refused
_REFUSAL_SECONDS = 1

T = TypeVar("T")


class WorkQueue:
    """Runs work in at most `threads` threads; further work waits for its turn.

    At most `waiting` pieces of work wait, each for `turn_seconds`. A client is answered within
    `seconds`, even if the work does not end by then.
    """

    def __init__(
        self, name: str, *, threads: int, waiting: int, turn_seconds: float, seconds: float
    ) -> None:
        self.name = name
        self.places = threads + waiting
        self.turn_seconds = turn_seconds
        self.seconds = seconds
        self._limiter = CapacityLimiter(threads)
        self._taken: Counter[str | None] = Counter()

    async def run(self, request: Request, work: Callable[[], T]) -> T:
        """Return the result of the work.

        The work ends early where the client leaves or the time is over: work that waits is dropped,
        and in a thread `anyio.from_thread.check_cancelled` raises. Its place is free once its
        thread has ended.

        Raises HTTPException 503 where the queue is full or the time is over, and 429 where one key
        has half of the places.
        """
        await self.admit(request)
        client = _client_of(request)
        scope = CancelScope()
        began = False

        def begin() -> T:
            nonlocal began
            # read after `turn_seconds`; an asyncio.Event would wake the event loop for each request
            began = True
            return work()

        async def turn() -> T:
            with scope:
                return await to_thread.run_sync(begin, limiter=self._limiter)
            raise asyncio.CancelledError

        self._taken[client] += 1
        answer = asyncio.create_task(turn())
        answer.add_done_callback(partial(self._leave, client))
        left = asyncio.create_task(_left(request))
        try:
            await _first(answer, left, seconds=self.turn_seconds)
            if began:
                await _first(answer, left, seconds=self.seconds - self.turn_seconds)
        finally:
            left.cancel()
            if not answer.done():
                scope.cancel()
        if answer.done():
            return answer.result()
        if left.done():
            # the rest of an unread body may have been wrong
            left.result()
        raise self._refusal(503, "the request was not answered in time: try again later")

    async def admit(self, request: Request) -> None:
        """Raise HTTPException 503 or 429, as `run` does, where the queue has no place."""
        client = _client_of(request)
        refusal = None
        if self._taken.total() >= self.places:
            refusal = self._refusal(503, f"too many {self.name} are waiting: try again later")
        elif client is not None and 2 * self._taken[client] >= self.places:
            refusal = self._refusal(
                429, f"key {client!r} has {self._taken[client]} {self.name} at work or waiting"
            )
        if refusal:
            # a client that sends again at once would take the time of others
            await asyncio.sleep(_REFUSAL_SECONDS)
            raise refusal

    def _refusal(self, status: int, detail: str) -> HTTPException:
        return HTTPException(status, detail, {"Retry-After": f"{self.turn_seconds:.0f}"})

    def _leave(self, client: str | None, answer: asyncio.Task[T]) -> None:
        self._taken[client] -= 1
        # an error after the client was answered has no other reader
        if not answer.cancelled():
            answer.exception()


class Queues:
    """The queues of a service. None waits for another."""

    def __init__(self) -> None:
        # many queries share one call of a model
        self.queries = WorkQueue("searches", threads=32, waiting=64, turn_seconds=5, seconds=20)
        self.batches = WorkQueue("batches", threads=2, waiting=8, turn_seconds=20, seconds=60)
        self.documents = WorkQueue(
            "calls for documents",
            threads=2,
            waiting=16,
            turn_seconds=PATIENCE_SECONDS,
            seconds=CALL_SECONDS,
        )
        self.state = WorkQueue("calls for state", threads=4, waiting=32, turn_seconds=5, seconds=20)
        self.health = WorkQueue("probes", threads=2, waiting=32, turn_seconds=5, seconds=10)


async def _queues(request: Request) -> Queues:
    queues: Queues = request.app.state.queues
    return queues


CurrentQueues = Annotated[Queues, Depends(_queues)]


def _client_of(request: Request) -> str | None:
    key: Key | None = getattr(request.state, "key", None)
    return key.name if key else None


async def _left(request: Request) -> None:
    """Return once the client has left. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _first(*tasks: asyncio.Task[T] | asyncio.Task[None], seconds: float) -> None:
    """Return once one of the tasks has ended, or the time is over."""
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
