"""Bounds what a provider answers, in time and size, whether it is vectors or an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import httpx2

# 2,048 vectors of 4,096 dimensions, written as numbers
_MOST_BYTES = 256 << 20
# what is about to be answered is paid for; with the step below it makes a stop of two seconds
_GRACE_SECONDS = 1.5
# how often whoever waits looks whether it should stop
_STEP_SECONDS = 0.25

T = TypeVar("T")


class Unended(Exception):
    """An answer that is too long, too long in coming, or packed."""


def awaited(ask: Callable[[], T], seconds: float, stopped: Event) -> T:
    """What `ask` gives within so many seconds in all, or within two once it is `stopped`.

    It runs in a thread of its own, which is left to itself where it takes longer: a timeout of HTTP
    is one of each part, and an answer may drip for ever, head or body. Raises Unended then.
    """
    answer: Future[T] = Future()
    Thread(target=_settle, args=(answer, ask), name="asking", daemon=True).start()
    until = time.monotonic() + seconds
    told = False
    while (left := until - time.monotonic()) > 0 and not answer.done():
        wait([answer], timeout=min(left, _STEP_SECONDS))
        if not told and stopped.is_set():
            told = True
            until = min(until, time.monotonic() + _GRACE_SECONDS)
    if not answer.done():
        raise Unended("stopped before it answered" if told else f"no whole answer in {seconds:g} s")
    return answer.result()


def _settle(answer: Future[T], ask: Callable[[], T]) -> None:
    try:
        answer.set_result(ask())
    # whatever it is, it is for who waits
    except BaseException as error:
        answer.set_exception(error)


def bounded_client() -> httpx2.Client:
    """The vendor's client of HTTP, which reads no body without end and follows no redirect: the
    texts are for the provider that was configured."""
    import httpx2
    import openai

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, inner: httpx2.SyncByteStream) -> None:
            self._inner = inner
            self._size = 0

        def __iter__(self) -> Iterator[bytes]:
            for part in self._inner:
                self._size += len(part)
                if self._size > _MOST_BYTES:
                    raise Unended(f"the answer has more than {_MOST_BYTES:,} bytes")
                yield part

        def close(self) -> None:
            self._inner.close()

    def bound(response: httpx2.Response) -> None:
        packing = response.headers.get("content-encoding", "identity")
        if packing != "identity":
            raise Unended(f"the answer is packed ({packing}), which was not asked for")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = Bounded(response.stream)

    return openai.DefaultHttpxClient(
        event_hooks={"response": [bound]},
        # packed, a few bytes could be gigabytes
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
    )
