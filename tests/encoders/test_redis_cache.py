"""Vectors in Redis: how they are kept, found again, evicted and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import SecretStr

from embeddings_pipeline.encoders.cache import redis as redis_cache
from embeddings_pipeline.encoders.cache.redis import RedisCache
from embeddings_pipeline.entities.rendering import text_hash
from tests.support.redis_server import RedisServer
from tests.support.remembering import (
    OTHER,
    encoder_of,
    encoders,
    pump_and_hose,
    remembering,
    two_models,
)
from tests.support.waiting import until
from tests.support.words import WORDS, WordsEncoder

KEY = f"ep:document:{text_hash('pump').hex()}"


@pytest.fixture(autouse=True)
def _a_busy_machine_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_cache, "_ANSWER_SECONDS", 30)


def test_a_vector_is_kept_as_binary_float32_and_a_digest_for_the_time_of_its_kind(
    redis: RedisServer,
) -> None:
    encoder = encoder_of(redis, embedding_cache_ttl=1000, embedding_query_cache_ttl=10)
    encoder.encode_query(["pump"])
    vector = encoder.encode_documents(["pump"]).vectors[0]

    ((field, value),) = redis.client.hgetall(KEY).items()
    assert isinstance(field, bytes)
    assert field.startswith(b"fake/words r1 64 ")
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
    "garbage",
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
def test_garbage_in_place_of_a_vector_is_a_miss_and_made_good(
    redis: RedisServer, garbage: bytes
) -> None:
    pump_and_hose(encoder_of(redis))
    (field,) = redis.client.hkeys(KEY)
    redis.client.hset(KEY, field, garbage)
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


def test_garbage_in_place_of_a_key_is_a_miss_and_made_good(redis: RedisServer) -> None:
    pump_and_hose(encoder_of(redis))
    redis.client.set(KEY, "garbage")
    made = encoders(redis)
    made.add(WordsEncoder())
    assert pump_and_hose(remembering(made)) == 1
    assert pump_and_hose(encoder_of(redis)) == 2
    assert made.cache.stats().errors == 0


def test_a_text_is_evicted_from_both_kinds_and_all_models(redis: RedisServer) -> None:
    made = two_models(redis)
    for model in (WORDS.model, OTHER.model):
        remembering(made, model).encode_documents(["pump", "hose"])
        remembering(made, model).encode_query(["pump", "hose"])
    assert made.cache.evict([text_hash("pump"), text_hash("never seen")])
    hose = text_hash("hose").hex()
    assert redis.keys() == {f"ep:document:{hose}", f"ep:query:{hose}"}
    for model in (WORDS.model, OTHER.model):
        assert remembering(made, model).encode_query(["pump", "hose"]).usage.cached == 1


def test_the_vectors_of_some_models_are_cleared(redis: RedisServer) -> None:
    made = two_models(redis)
    for model in (WORDS.model, OTHER.model):
        remembering(made, model).encode_documents(["pump", "hose"])
    remembering(made).encode_query(["pump"])
    redis.client.set("somebody's", "else")
    redis.client.set("ep:query:garbage", "garbage")

    assert made.cache.clear("*/other") == 2
    assert remembering(made, OTHER.model).encode_documents(["pump"]).usage.cached == 0
    assert remembering(made).encode_documents(["pump"]).usage.cached == 1
    assert made.cache.clear("*") == 4
    assert redis.keys() == {"somebody's"}


def test_hits_keys_and_memory_are_counted(redis: RedisServer) -> None:
    made = two_models(redis)
    encoder = remembering(made)
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
    remembering(made).encode_query(["pump"])
    made.cleanup()
    until(lambda: len(redis.client.client_list()) == 1)
    made.add(WordsEncoder())
    assert remembering(made).encode_query(["pump"]).usage.cached == 1
    made.cleanup()
    until(lambda: len(redis.client.client_list()) == 1)
