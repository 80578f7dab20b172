"""Answers of a provider that are not what was asked for."""

from __future__ import annotations

import gzip
import zlib
from threading import Barrier

import pytest

from embeddings_pipeline.encoders.openai import client
from embeddings_pipeline.encoders.openai.client import Timeouts
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support import provider as misbehaving
from tests.support.asking import TEXTS, assert_right, encoder
from tests.support.provider import UNUSABLE, Change, Coded, Provider, Trouble

LONG = [f"{n} " + "word " * 3_000 for n in range(4)]


@pytest.mark.parametrize("change", UNUSABLE)
def test_an_answer_that_cannot_be_used_is_asked_for_again(
    provider: Provider, change: Change | str
) -> None:
    provider.changes = [change]
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    # where vectors are missing, a text may be at fault: the probe, and two halves
    assert len(provider.asked) == 4 + (3 if change is misbehaving.one_less else 1)


def test_an_answer_that_never_can_be_used_is_not_paid_for_ever(provider: Provider) -> None:
    provider.chance = lambda texts: misbehaving.one_less
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    with pytest.raises(EmbeddingsError, match="cannot be used: 0 vectors for 1 texts"):
        done.raise_if_stopped()
    assert done.usage.tokens == provider.tokens
    # the probe has no vectors, also as numbers
    assert [len(body["input"]) for body in provider.asked] == [10, 1, 1]


def test_an_answer_that_leaves_open_which_vector_is_whose_is_paid_for_once(
    provider: Provider,
) -> None:
    provider.chance = lambda texts: misbehaving.one_twice
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    with pytest.raises(EmbeddingsError, match="cannot be used: two vectors have the index 0"):
        done.raise_if_stopped()
    assert [len(body["input"]) for body in provider.asked] == [10]


def test_unusable_answers_are_paid_for(provider: Provider) -> None:
    provider.changes = [misbehaving.one_less, misbehaving.shorter]
    done = encoder(provider).encode_documents(TEXTS)
    assert done.usage.tokens == provider.tokens
    assert sum(provider.billed.values()) > 40


def test_an_answer_that_drips_is_asked_for_again(provider: Provider) -> None:
    provider.changes = ["dripping"]
    impatient = Timeouts(answer=1, total=20)
    done = encoder(provider, timeouts=impatient, in_flight=1).encode_documents(TEXTS[:3])
    assert_right(done, TEXTS[:3])
    assert len(provider.asked) == 2


@pytest.mark.parametrize("trouble", ["dripping head", "dripping error"])
def test_an_error_or_a_head_that_drips_is_not_waited_for(provider: Provider, trouble: str) -> None:
    provider.troubles = [trouble]
    impatient = Timeouts(answer=1, total=20)
    done = encoder(provider, timeouts=impatient).encode_documents(TEXTS[:3])
    assert_right(done, TEXTS[:3])
    assert len(provider.asked) == 2


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


@pytest.mark.parametrize(
    "coded",
    [
        Coded("gzip", gzip.compress),
        Coded("deflate", zlib.compress),
        Coded("deflate", raw_deflate),
        Coded("utf-8", bytes),
    ],
    ids=["gzip", "deflate", "raw deflate", "none"],
)
def test_an_answer_that_is_compressed_against_the_request_is_used(
    provider: Provider, coded: Coded
) -> None:
    provider.changes = [coded]
    assert_right(encoder(provider, in_flight=1).encode_documents(TEXTS[:3]), TEXTS[:3])
    assert [headers["Accept-Encoding"] for headers in provider.headers] == ["identity"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
def test_an_answer_in_another_coding_is_paid_for_once(provider: Provider, coding: str) -> None:
    provider.chance = lambda texts: Coded(coding, gzip.compress)
    done = encoder(provider, in_flight=1).encode_documents(TEXTS[:3])
    with pytest.raises(EmbeddingsError, match=rf"it is compressed \({coding}\).*change the proxy"):
        done.raise_if_stopped()
    assert (len(provider.asked), done.usage.tokens > 0) == (1, True)


def test_an_answer_that_expands_without_end_is_not_read_to_its_end(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_MAX_BYTES", 1_000_000)
    packed = gzip.compress(bytes(100_000_000))
    provider.chance = lambda texts: Coded("gzip", lambda body: packed)
    impatient = Timeouts(answer=5, total=0.1)
    with pytest.raises(EmbeddingsError, match="the response has more than 1,000,000 bytes"):
        encoder(provider, timeouts=impatient).encode_documents(TEXTS[:1])


@pytest.mark.parametrize("coding", ["br", "gzip"])
def test_an_error_that_is_compressed_keeps_its_meaning(provider: Provider, coding: str) -> None:
    words = gzip.compress(b'{"error": {"message": "no such key"}}')
    provider.always = (401, words, {"Content-Encoding": coding})
    with pytest.raises(ConfigurationError, match="does not accept the key"):
        encoder(provider).encode_documents(TEXTS[:1])
    assert len(provider.asked) == 2


def test_an_answer_that_cannot_be_read_is_taken_to_be_paid_for(provider: Provider) -> None:
    provider.changes = ["garbled"]
    done = encoder(provider, in_flight=1).encode_documents(TEXTS[:10])
    # the provider's own count is lost with the answer, and its estimate stands in for it
    assert done.usage.tokens > provider.tokens / 2 * 1.5


def test_an_answer_without_end_is_not_read_to_its_end(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_MAX_BYTES", 1_000)
    impatient = Timeouts(answer=5, total=0.1)
    with pytest.raises(EmbeddingsError, match="the response has more than 1,000 bytes"):
        encoder(provider, timeouts=impatient).encode_documents(TEXTS[:1])


def test_a_page_of_who_stands_before_the_provider_is_sat_out(provider: Provider) -> None:
    provider.changes = ["page"] * 9
    done = encoder(provider, in_flight=1).encode_documents(TEXTS[:1])
    assert_right(done, TEXTS[:1])
    # four tries, the probe that waits for the provider, and the text again
    assert (done.failures, len(provider.asked)) == ({}, 4 + 6 + 1)


def test_a_server_that_knows_no_base64_is_asked_for_numbers(provider: Provider) -> None:
    provider.without_base64 = True
    asks = encoder(provider, in_flight=1)
    for _ in range(2):
        assert_right(asks.encode_documents(TEXTS[:3]), TEXTS[:3])
    formats = [body["encoding_format"] for body in provider.asked]
    assert formats == ["base64", "float", "float"]


@pytest.mark.parametrize("said", ["Unsupported encoding format", "only float is supported"])
def test_requests_in_flight_are_all_sent_again_as_numbers(provider: Provider, said: str) -> None:
    meeting = Barrier(4)

    def refused(texts: list[str]) -> Trouble | None:
        with provider.lock:
            as_numbers = provider.asked[-1]["encoding_format"] == "float"
        if as_numbers or len(provider.asked) > 4:
            return None
        meeting.wait(20)
        return 400, {"message": said}, {}

    provider.chance = refused
    done = encoder(provider, in_flight=4, batch_texts=1).encode_documents(LONG)
    assert_right(done, LONG)


def test_shuffled_answers_are_put_in_order(provider: Provider) -> None:
    provider.chance = lambda texts: misbehaving.shuffled
    assert_right(encoder(provider).encode_documents(TEXTS), TEXTS)
    assert set(provider.billed.values()) == {1}


def test_only_the_text_whose_vector_is_not_finite_is_sent_again(provider: Provider) -> None:
    provider.changes = [misbehaving.not_finite]
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    assert [len(body["input"]) for body in provider.asked] == [10, 1, 10, 10, 10]


def test_a_text_whose_vector_is_never_finite_fails_alone(provider: Provider) -> None:
    provider.chance = lambda texts: misbehaving.not_finite if TEXTS[0] in texts else None
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert_right(done, TEXTS, failed=[0])
    assert done.failures == {0: "the answer cannot be used: the vector is not finite"}
    # the batch, and twice the text and the probe
    assert [len(body["input"]) for body in provider.asked] == [10, 1, 1, 1, 1, 10, 10, 10]
