"""Calls over a network, each with a deadline for the whole call.

The timeouts of clients apply to each read and begin again with each byte, so a peer that sends a
byte now and then could hold a call for ever. A coroutine can be cancelled wherever it waits: for a
name, a connection, the head or the body of an answer, or the pause before another try. Cancelling
closes its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import cache
from threading import Lock, Thread
from typing import TypeVar

T = TypeVar("T")

_starting = Lock()


def call(work: Awaitable[T], seconds: float, loop: asyncio.AbstractEventLoop | None = None) -> T:
    """Return the result of a coroutine. Raises TimeoutError after this time.

    `loop` is the running event loop of a client that has its own.
    """
    future = start(work, seconds, loop)
    try:
        # closing a connection may wait for its peer, too: that goes on without the caller
        return future.result(seconds)
    finally:
        # after an interrupt of the waiting thread, for example Ctrl-C
        future.cancel()


def call_blocking(work: Callable[[], T], seconds: float) -> T:
    """Return the result of a function that blocks, of a client without coroutines. Raises
    TimeoutError after this time.

    The function cannot be ended. It goes on in a thread that does not keep the process alive.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="blocking call", daemon=True).start()
    return future.result(seconds)


def start(
    work: Awaitable[T], seconds: float | None, loop: asyncio.AbstractEventLoop | None = None
) -> Future[T]:
    """Begin a coroutine, by default in the thread of network calls.

    The future raises TimeoutError after this time; None leaves the limit to the coroutine.
    Cancelling the future ends the coroutine.
    """

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await work

    with _starting:
        return asyncio.run_coroutine_threadsafe(limited(), loop or _event_loop())


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the process. Clients of coroutines belong to one loop."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="network", daemon=True).start()
    return loop
