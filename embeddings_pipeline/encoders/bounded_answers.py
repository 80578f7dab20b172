"""Bounds what a provider answers, in time and size, whether it is vectors or an error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

# 2,048 vectors of 4,096 dimensions, written as numbers
_MOST_BYTES = 256 << 20


class Unended(Exception):
    """The body of an answer is too long, or too long in coming."""


def bounded_client(seconds: float) -> httpx2.Client:
    """The vendor's client of HTTP, whose answers' bodies have so many seconds each: a timeout of
    HTTP is one of each part, and a body may drip for ever."""
    import httpx2
    import openai

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, inner: httpx2.SyncByteStream) -> None:
            self._inner = inner
            self._until = time.monotonic() + seconds
            self._size = 0

        def __iter__(self) -> Iterator[bytes]:
            for part in self._inner:
                self._size += len(part)
                if self._size > _MOST_BYTES:
                    raise Unended(f"the answer has more than {_MOST_BYTES:,} bytes")
                if time.monotonic() > self._until:
                    raise Unended(f"no whole answer in {seconds:g} s")
                yield part

        def close(self) -> None:
            self._inner.close()

    def bound(response: httpx2.Response) -> None:
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = Bounded(response.stream)

    return openai.DefaultHttpxClient(event_hooks={"response": [bound]})
