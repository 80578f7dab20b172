"""A Redis that is down, slow, full, closed to us or hangs up is left out, and nothing fails."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from embeddings_pipeline.encoders.cache import redis as redis_cache
from embeddings_pipeline.entities.rendering import text_hash
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support.redis_server import PASSWORD, RedisServer
from tests.support.remembering import encoder_of, encoders, pump_and_hose, remembering, two_models
from tests.support.words import WordsEncoder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that failed is tried again without a pause."""
    monkeypatch.setattr(redis_cache, "_PAUSE_SECONDS", 0)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, socket.socket]]:
    """A server that takes connections and never says a word."""
    monkeypatch.setattr(redis_cache, "_ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/0", server


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.usefixtures("at_once")
def test_a_redis_that_goes_and_comes_back_is_complained_of_once_and_used_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoders(redis, embedding_query_cache_ttl=0)  # nothing is kept in the process
    made.add(WordsEncoder())
    encoder = remembering(made)
    pump_and_hose(encoder)
    assert pump_and_hose(encoder) == 2

    for times_gone in (1, 2):
        redis.stop()
        errors = made.cache.stats().errors
        assert [pump_and_hose(encoder) for _ in range(3)] == [0, 0, 0]
        assert made.cache.stats().errors > errors
        assert made.cache.stats().redis == "not reached"
        about_reading = [said for said in complaints(caplog) if said.startswith("reading")]
        assert len(about_reading) == times_gone
        redis.start()
        assert pump_and_hose(encoder) == 2
    assert PASSWORD not in caplog.text


def test_a_redis_that_is_down_is_asked_once_and_then_left_alone(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.stop()
    made = encoders(redis)
    made.add(WordsEncoder())
    for text in ("pump", "hose", "valve"):
        remembering(made).encode_query([text])
    stats = made.cache.stats()
    assert (stats.errors, stats.bypassed, stats.redis) == (1, 5, "not reached")
    assert len(complaints(caplog)) == 1
    assert "EMBEDDING_REDIS_URL" in complaints(caplog)[0]


def test_a_redis_that_never_answers_is_waited_for_once(silent: tuple[str, socket.socket]) -> None:
    url, server = silent
    made = encoders(None, embedding_redis_url=url)
    made.add(WordsEncoder())
    encoder = remembering(made)
    assert pump_and_hose(encoder) == 0
    assert encoder.encode_query(["pump"]).usage.cached == 0
    server.accept()[0].close()
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()
    assert made.cache.stats().errors == 1


def test_a_redis_that_hangs_up_is_not_called_again_and_again() -> None:
    calls = []

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_address[1]
        encoder = encoder_of(None, embedding_redis_url=f"redis://127.0.0.1:{port}/0")
        assert pump_and_hose(encoder) == 0
        server.shutdown()
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "head", [b"", b"$-1\r\n", b"*100000\r\n"], ids=["nothing", "one answer", "a long list"]
)
def test_a_redis_that_sends_a_byte_now_and_then_is_given_up(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"+OK\r\n" * 2 + head)
            # until the client hangs up
            with contextlib.suppress(OSError):
                while True:
                    self.request.sendall(b"$")
                    gone.wait(0.02)

    # each byte comes in time, and the whole answer never
    monkeypatch.setattr(redis_cache, "_ANSWER_SECONDS", 0.2)
    gone = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made = encoders(None, embedding_redis_url=f"redis://127.0.0.1:{server.server_address[1]}")
        made.add(WordsEncoder())
        assert pump_and_hose(remembering(made)) == 0
        assert made.cache.stats().errors == 1
        assert made.cache.evict([text_hash("pump")]) is False
        server.shutdown()
        thread.join()


def test_a_full_redis_is_read_from_all_the_same(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    redis.client.config_set("maxmemory", 1)
    made = encoders(redis)
    made.add(WordsEncoder())
    encoder = remembering(made)
    assert encoder.encode_documents(["valve"]).usage.cached == 0
    assert pump_and_hose(encoder) == 2
    assert made.cache.stats().errors == 1


def test_a_wrong_password_is_no_failure_and_is_not_told(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoders(None, embedding_redis_url=redis.url.replace(PASSWORD, "wr0ng-secret"))
    made.add(WordsEncoder())
    with caplog.at_level(logging.DEBUG):
        assert pump_and_hose(remembering(made)) == 0
    assert len(complaints(caplog)) == 1
    assert "wr0ng-secret" not in caplog.text
    assert "wr0ng-secret" not in repr(made._settings)


@pytest.mark.parametrize("url", ["localhost:6379/s3cret", "redis://me:x@host:s3cret/0"])
def test_a_url_that_is_none_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING_REDIS_URL is not") as raised:
        _ = encoders(None, embedding_redis_url=url).cache
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_user_that_may_not_ask_for_statistics_reads_all_the_same(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    redis.client.acl_setuser("default", enabled=True, commands=["-info", "-dbsize"])
    made = encoders(redis)
    made.add(WordsEncoder())
    assert made.cache.stats().redis == "not reached"
    assert pump_and_hose(remembering(made)) == 2
    assert made.cache.stats().errors == 0


def test_to_evict_from_a_redis_that_is_down_is_not_done(redis: RedisServer) -> None:
    made = two_models(redis)
    redis.stop()
    assert not made.cache.evict([text_hash("pump")])


def test_what_cannot_be_cleared_is_an_error(redis: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING_REDIS_URL is not set"):
        encoders(None).cache.clear("*")
    redis.stop()
    with pytest.raises(EmbeddingsError, match="cannot be cleared"):
        encoders(redis).cache.clear("*")


def test_a_redis_that_may_only_be_read_gives_what_is_good_beside_garbage(
    redis: RedisServer,
) -> None:
    pump_and_hose(encoder_of(redis))
    key = f"ep:document:{text_hash('pump').hex()}"
    (field,) = redis.client.hkeys(key)
    redis.client.hset(key, field, "garbage")
    redis.client.replicaof("127.0.0.1", "1")
    assert pump_and_hose(encoder_of(redis)) == 1
