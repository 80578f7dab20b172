"""Vectors in Redis: how they are kept, and that a Redis at fault never makes a call fail."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pydantic import SecretStr

from embeddings_pipeline.encoders import breaker, redis_connection
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.redis_cache import RedisCache
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.serialise import text_hash
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.encoders.remembering import encoder_of, encoders
from tests.redis_server import PASSWORD, RedisServer
from tests.waiting import until
from tests.words import WORDS, WordsEncoder

KEY = f"ep:document:{text_hash('pump').hex()}"
OTHER = replace(WORDS, model="fake/other")
PRICES = {WORDS.model: 0.02, OTHER.model: 0.02}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that failed is tried again without a pause."""
    monkeypatch.setattr(breaker, "_PAUSE_SECONDS", 0)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, socket.socket]]:
    """A server that takes connections and never says a word."""
    monkeypatch.setattr(redis_connection, "_ANSWER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/0", server


def two_models(redis: RedisServer) -> Encoders:
    made = encoders(redis, embedding_prices=PRICES)
    made.add(WordsEncoder())
    made.add(WordsEncoder(OTHER))
    return made


def pump_and_hose(encoder: CachedEncoder) -> int:
    """How many of two documents were remembered; whichever, their vectors are right."""
    done = encoder.encode_documents(["pump", "hose"])
    assert np.array_equal(done.vectors, WordsEncoder().encode_query(["pump", "hose"]).vectors)
    return done.usage.cached


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_vector_is_kept_as_binary_float32_and_a_digest_for_the_time_of_its_kind(
    redis: RedisServer,
) -> None:
    encoder = encoder_of(redis, embedding_cache_ttl=1000, embedding_query_cache_ttl=10)
    encoder.encode_query(["pump"])
    vector = encoder.encode_documents(["pump"]).vectors[0]

    ((field, value),) = redis.client.hgetall(KEY).items()
    assert field.decode().startswith("fake/words r1 64 ")
    assert value[:-8] == vector.astype("<f4").tobytes()
    assert 900_000 < redis.client.pttl(KEY) <= 1_000_000
    assert 0 < redis.client.pttl(f"ep:query:{text_hash('pump').hex()}") <= 10_000


def test_many_texts_take_few_round_trips(redis: RedisServer) -> None:
    texts = [f"text {n}" for n in range(1200)]
    encoder_of(redis).encode_documents(texts)
    before = redis.client.info()["total_reads_processed"]
    assert encoder_of(redis).encode_documents(texts).usage.cached == 1200
    # 500 texts in a trip, which the server may read in some pieces, and what a connection says
    assert redis.client.info()["total_reads_processed"] - before < 100


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\x00" * 255,
        b"\x00" * 256,
        np.full(64, np.nan, "<f4").tobytes(),
        np.full(64, 3e38, "<f4").tobytes(),
        bytes(range(128)) * 2,
        # a vector that the model could have made, without a digest and with a wrong one
        np.full(64, 1 / 8, "<f4").tobytes(),
        np.full(64, 1 / 8, "<f4").tobytes() + b"12345678",
    ],
)
def test_rubbish_in_place_of_a_vector_is_a_miss_and_made_good(
    redis: RedisServer, rubbish: bytes
) -> None:
    pump_and_hose(encoder_of(redis))
    (field,) = redis.client.hkeys(KEY)
    redis.client.hset(KEY, field, rubbish)
    assert pump_and_hose(encoder_of(redis)) == 1
    assert pump_and_hose(encoder_of(redis)) == 2


def test_the_vector_of_another_text_is_a_miss(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    ((field, value),) = redis.client.hgetall(KEY).items()
    redis.client.hset(f"ep:document:{text_hash('hose').hex()}", field, value)
    assert pump_and_hose(encoder_of(redis)) == 1


def test_a_vector_of_zeros_is_a_miss(redis: RedisServer) -> None:
    cache = RedisCache(SecretStr(redis.url), {"document": 100, "query": 100})
    model, text = replace(WORDS, normalized=False), text_hash("pump")
    vectors = {text: b"\0" * 4 * WORDS.dimension}
    cache.write("document", model, vectors)
    assert cache.read("document", model, [text]) == {}
    vectors = {text: np.full(WORDS.dimension, 0.5, "<f4").tobytes()}
    cache.write("document", model, vectors)
    assert cache.read("document", model, [text]) == vectors
    cache.close()


def test_a_user_that_may_not_ask_for_statistics_reads_all_the_same(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    redis.client.execute_command(
        *("ACL", "SETUSER", "default", "-info", "-dbsize"),
    )
    made = encoders(redis)
    made.add(WordsEncoder())
    assert made.cache.stats().redis == "not reached"
    assert pump_and_hose(made.get(WORDS.model)) == 2
    assert made.cache.stats().errors == 0


def test_rubbish_in_place_of_a_key_is_a_miss_and_made_good(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    redis.client.set(KEY, "rubbish")
    made = encoders(redis)
    made.add(WordsEncoder())
    assert pump_and_hose(made.get(WORDS.model)) == 1
    assert pump_and_hose(encoder_of(redis)) == 2
    assert made.cache.stats().errors == 0


@pytest.mark.usefixtures("at_once")
def test_a_redis_that_goes_and_comes_back_is_complained_of_once_and_used_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoders(redis, embedding_query_cache_ttl=0)  # nothing is kept in the process
    made.add(WordsEncoder())
    encoder = made.get(WORDS.model)
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
        made.get(WORDS.model).encode_query([text])
    stats = made.cache.stats()
    assert (stats.errors, stats.bypassed, stats.redis) == (1, 5, "not reached")
    assert len(complaints(caplog)) == 1
    assert "EMBEDDING_REDIS_URL" in complaints(caplog)[0]


def test_a_redis_that_never_answers_is_waited_for_once(silent: tuple[str, socket.socket]) -> None:
    url, server = silent
    made = encoders(None, embedding_redis_url=url)
    made.add(WordsEncoder())
    encoder = made.get(WORDS.model)
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


def test_a_full_redis_is_read_from_all_the_same(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    redis.client.config_set("maxmemory", 1)
    made = encoders(redis)
    made.add(WordsEncoder())
    encoder = made.get(WORDS.model)
    assert encoder.encode_documents(["valve"]).usage.cached == 0
    assert pump_and_hose(encoder) == 2
    assert made.cache.stats().errors == 1


def test_a_wrong_password_is_no_failure_and_is_not_told(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoders(None, embedding_redis_url=redis.url.replace(PASSWORD, "wr0ng-secret"))
    made.add(WordsEncoder())
    with caplog.at_level(logging.DEBUG):
        assert pump_and_hose(made.get(WORDS.model)) == 0
    assert len(complaints(caplog)) == 1
    assert "wr0ng-secret" not in caplog.text
    assert "wr0ng-secret" not in repr(made._settings)


@pytest.mark.parametrize("url", ["localhost:6379/s3cret", "redis://me:x@host:s3cret/0"])
def test_a_url_that_is_none_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING_REDIS_URL is not") as raised:
        _ = encoders(None, embedding_redis_url=url).cache
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_text_is_evicted_from_both_kinds_and_all_models(redis: RedisServer) -> None:
    made = two_models(redis)
    for model in (WORDS.model, OTHER.model):
        made.get(model).encode_documents(["pump", "hose"])
        made.get(model).encode_query(["pump", "hose"])
    assert made.cache.evict([text_hash("pump"), text_hash("never seen")])
    hose = text_hash("hose").hex()
    assert redis.keys() == {f"ep:document:{hose}", f"ep:query:{hose}"}
    for model in (WORDS.model, OTHER.model):
        assert made.get(model).encode_query(["pump", "hose"]).usage.cached == 1


def test_to_evict_from_a_redis_that_is_down_is_not_done(redis: RedisServer) -> None:
    made = two_models(redis)
    redis.stop()
    assert not made.cache.evict([text_hash("pump")])


def test_the_vectors_of_some_models_are_cleared(redis: RedisServer) -> None:
    made = two_models(redis)
    for model in (WORDS.model, OTHER.model):
        made.get(model).encode_documents(["pump", "hose"])
    made.get(WORDS.model).encode_query(["pump"])
    redis.client.set("somebody's", "else")
    redis.client.set("ep:query:rubbish", "rubbish")

    assert made.cache.clear("*/other") == 2
    assert made.get(OTHER.model).encode_documents(["pump"]).usage.cached == 0
    assert made.get(WORDS.model).encode_documents(["pump"]).usage.cached == 1
    assert made.cache.clear("*") == 4
    assert redis.keys() == {"somebody's"}


def test_what_cannot_be_cleared_is_an_error(redis: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING_REDIS_URL is not set"):
        encoders(None).cache.clear("*")
    redis.stop()
    with pytest.raises(EmbeddingsError, match="cannot be cleared"):
        encoders(redis).cache.clear("*")


def test_hits_keys_and_memory_are_counted(redis: RedisServer) -> None:
    made = two_models(redis)
    encoder = made.get(WORDS.model)
    encoder.encode_query(["pump"])
    encoder.encode_query(["pump"])
    encoder.encode_query(["pump", "hose", "pump"])
    stats = made.cache.stats()
    assert (stats.hits, stats.misses, stats.hit_rate) == (2, 2, 0.5)
    assert (stats.entries, stats.memory_bytes) == (2, 2 * 4 * 64)
    assert stats.server is not None
    assert stats.server.keys == 2
    assert stats.server.memory_bytes > 0
    assert encoders(None).cache.stats().redis == "not configured"


def test_connections_are_closed_and_taken_anew(redis: RedisServer) -> None:
    made = two_models(redis)
    made.get(WORDS.model).encode_query(["pump"])
    made.cleanup()
    until(lambda: len(redis.client.client_list()) == 1)
    made.add(WordsEncoder())
    assert made.get(WORDS.model).encode_query(["pump"]).usage.cached == 1
