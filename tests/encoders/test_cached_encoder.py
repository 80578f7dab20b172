"""Texts that were encoded before are spared the model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.entities.rendering import Rendered, text_hash
from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support import CHECKOUT
from tests.support.redis_server import RedisServer
from tests.support.remembering import encoder_of, encoders, remembering
from tests.support.words import WORDS, WordsEncoder

ELSEWHERE = """
import sys
from types import SimpleNamespace
from tests.support.remembering import encoder_of
usage = encoder_of(SimpleNamespace(url=sys.argv[1])).encode_documents(["pump", "valve"]).usage
print(usage.texts, usage.cached)
"""


class Faulty(WordsEncoder):
    """Has no vector for `bad` and a broken one for `odd`."""

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        done = super().encode_documents(texts)
        done.vectors[[text == "odd" for text in texts]] = np.nan
        failures = {index: "too bad" for index, text in enumerate(texts) if text == "bad"}
        return replace(done, failures=failures)


def test_what_one_process_has_encoded_another_takes_from_redis(redis: RedisServer) -> None:
    encoder_of(redis).encode_documents(["pump", "hose"])
    command = [sys.executable, "-c", ELSEWHERE, redis.url]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_without_redis_a_process_remembers_for_itself() -> None:
    encoder = encoder_of(None)
    first = encoder.encode_query(["pump"])
    again = encoder.encode_query(["pump"])
    assert (first.usage.cached, again.usage.cached) == (0, 1)
    assert np.array_equal(first.vectors, again.vectors)
    assert encoder_of(None).encode_query(["pump"]).usage.cached == 0


def test_only_what_is_missing_is_encoded_and_the_order_is_that_of_the_texts(
    redis: RedisServer,
) -> None:
    encoder_of(redis).encode_documents(["b", "d"])
    words = WordsEncoder()
    done = encoder_of(redis, words).encode_documents(["a", "b", "c", "a", "d"])
    assert words.encoded == ["a", "c"]
    wanted = WordsEncoder().encode_query(["a", "b", "c", "a", "d"]).vectors
    assert np.array_equal(done.vectors, wanted)
    # a text that comes again is spared as well
    assert (done.usage.texts, done.usage.cached) == (2, 3)


def test_failures_and_broken_vectors_are_not_remembered(redis: RedisServer) -> None:
    encoder = encoder_of(redis, Faulty())
    for _ in range(2):
        done = encoder.encode_documents(["bad", "good", "odd", "bad"])
        assert done.failures == {0: "too bad", 3: "too bad"}
        assert np.isnan(done.vectors[2]).all()
    assert redis.keys() == {f"ep:document:{text_hash('good').hex()}"}


def test_a_query_is_no_document_and_a_revision_no_other(redis: RedisServer) -> None:
    encoder = encoder_of(redis)
    encoder.encode_documents(["pump"])
    assert encoder.encode_query(["pump"]).usage.cached == 0
    for changed in ({"revision": "r2"}, {"dimension": 32}, {"max_tokens": 128}):
        other = encoder_of(redis, WordsEncoder(replace(WORDS, **changed)))
        assert other.encode_documents(["pump"]).usage.cached == 0


def test_known_texts_load_no_model(redis: RedisServer) -> None:
    for first in (True, False):
        made = encoders(redis)
        encoder = remembering(made, DEFAULT_MODEL, 64)
        done = encoder.encode_documents(["pump"]).usage + encoder.encode_query(["pump"]).usage
        loaded = "_model" in vars(made._local_models[DEFAULT_MODEL, True])
        assert (done.texts, done.cached, loaded) == ((2, 0, True) if first else (0, 2, False))
        made.cleanup()


def test_vectors_of_another_dimension_are_not_remembered(redis: RedisServer) -> None:
    class Short(WordsEncoder):
        def encode_documents(self, texts: Sequence[str]) -> Encodings:
            done = super().encode_documents(texts)
            return replace(done, vectors=done.vectors[:, :32])

    encoder = encoder_of(redis, Short())
    for _ in range(2):
        with pytest.raises(ValueError, match="shape"):
            encoder.encode_documents(["pump"])
    assert redis.keys() == set()


def test_nothing_is_asked_for_no_texts() -> None:
    done = encoder_of(None).encode_documents([])
    assert done.vectors.shape == (0, WORDS.dimension)


def test_the_hash_of_a_plain_text_is_that_of_its_row() -> None:
    assert Rendered("name: Pumpe für 5 €").text_hash == text_hash("name: Pumpe für 5 €")
    # stored since the first release: another would encode every text again
    assert text_hash("pump").hex().startswith("ba78ac1574cbb2f8")


def test_vectors_that_a_caller_changes_stay_what_they_are_in_the_cache() -> None:
    encoder = encoder_of(None)
    encoder.encode_query(["pump"]).vectors[:] = 0
    again = encoder.encode_query(["pump"])
    assert again.usage.cached == 1
    assert again.vectors.any()


def test_texts_that_come_twice_in_a_call_have_the_same_vector() -> None:
    done = encoder_of(None).encode_documents(["pump", "pump"])
    assert np.array_equal(done.vectors[0], done.vectors[1])
