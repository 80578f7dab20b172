"""A call over a network has a deadline for the whole call, whatever its peer sends meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Event
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.encoders.cache.redis import RedisCache
from embeddings_pipeline.entities.rendering import text_hash
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.store.connection import Postgres
from tests.support.dripping import dripping
from tests.support.words import WordsEncoder

HASHES = [text_hash(str(n)) for n in range(2_000)]
IDENTITY = WordsEncoder().identity


def seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"-ERR ",
        b"%7\r\n$6\r\nserver\r\n$",
        b"+OK\r\n" * 2,
        b"+OK\r\n" * 2 + b"*100000\r\n",
        b"\x16\x03\x03\x40\x00\x02",
    ],
)
def test_a_redis_that_sends_a_byte_every_third_of_a_second_is_waited_for_once(
    begin: bytes, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def noted(work: Awaitable[Any], seconds: float) -> Any:
        waited.append(seconds)
        return call_in_time(work, seconds)

    call_in_time = deadline.call
    monkeypatch.setattr(deadline, "call", noted)
    calls: list[Callable[[RedisCache], object]] = [
        lambda cache: cache.read("document", IDENTITY, HASHES),
        lambda cache: cache.write("document", IDENTITY, dict.fromkeys(HASHES, bytes(32))),
        lambda cache: cache.evict(HASHES),
        lambda cache: cache.server(),
    ]
    with dripping(begin) as port:
        for call in calls:
            url = SecretStr(f"{scheme}://127.0.0.1:{port}?ssl_cert_reqs=none")
            cache = RedisCache(url, {"document": 60, "query": 60})
            waited.clear()
            # a timeout that begins again with each byte would never end
            call(cache)
            # this one does not wait again
            call(cache)
            assert waited == [0.5]
            cache.close()


def test_a_redis_that_drips_is_not_cleared() -> None:
    with dripping(b"+OK\r\n" * 2) as port:
        cache = RedisCache(SecretStr(f"redis://127.0.0.1:{port}"), {"document": 60, "query": 60})
        with pytest.raises(EmbeddingsError, match="cannot be cleared: TimeoutError"):
            cache.clear("*")


def test_a_call_does_not_wait_for_what_is_tidied_up_after_it() -> None:
    answered, tidied = Event(), Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            # a peer that does not take part in the closing of an encrypted connection
            while not answered.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.02)
            tidied.set()

    with pytest.raises(TimeoutError):
        deadline.call(stubborn(), 0.1)
    assert not tidied.is_set()
    answered.set()
    assert tidied.wait(60)


def test_a_call_that_blocks_ends_in_time_with_its_result_or_its_error() -> None:
    assert deadline.call_blocking(lambda: 7, 60) == 7
    with pytest.raises(ZeroDivisionError):
        deadline.call_blocking(lambda: 1 / 0, 60)
    blocked = Event()
    with pytest.raises(TimeoutError):
        deadline.call_blocking(blocked.wait, 0.1)
    blocked.set()


@pytest.mark.parametrize("begin", [b"", b"N", b"R", b"N" + b"R\x00\x00\x40\x00"])
def test_a_server_that_drips_is_no_database(begin: bytes) -> None:
    with dripping(begin, b"\0") as port:
        database = Database("127.0.0.1", port, "x", "x", SecretStr("x"))

        def call() -> None:
            postgres = Postgres(database, patience=1)
            with pytest.raises((psycopg.Error, EmbeddingsError)), postgres.connection():
                pass
            postgres.close()

        # 1 s of patience, and 10 s to say why
        assert seconds(call) < 60
