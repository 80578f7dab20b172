"""Answers of a provider that are not what was asked for."""

from __future__ import annotations

import pytest

from embeddings_pipeline.encoders import openai_requests
from embeddings_pipeline.encoders.openai_requests import Patience
from embeddings_pipeline.errors import EmbeddingsError
from tests.encoders import provider as misbehaving
from tests.encoders.asking import TEXTS, assert_right, encoder
from tests.encoders.provider import UNUSABLE, Change, Provider


@pytest.mark.parametrize("change", UNUSABLE)
def test_an_answer_that_cannot_be_used_is_asked_for_again(
    provider: Provider, change: Change | str
) -> None:
    provider.changes = [change]
    done = encoder(provider).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    assert len(provider.asked) == 4 + 1


def test_an_answer_that_never_can_be_used_is_not_paid_for_ever(provider: Provider) -> None:
    provider.chance = lambda texts: misbehaving.one_less
    with pytest.raises(EmbeddingsError, match="9 vectors for 10 texts"):
        encoder(provider, in_flight=1).encode_documents(TEXTS)
    # and three times whether it can encode anything at all
    assert [len(body["input"]) for body in provider.asked] == [10] * 4 + [1] * 3


def test_unusable_answers_are_paid_for(provider: Provider) -> None:
    provider.changes = [misbehaving.one_less, misbehaving.shorter]
    done = encoder(provider).encode_documents(TEXTS)
    assert done.usage.tokens == provider.tokens
    assert sum(provider.billed.values()) == 60


def test_an_answer_that_drips_is_asked_for_again(provider: Provider) -> None:
    provider.changes = ["dripping"]
    impatient = Patience(answer=0.3, first=0.001, longest=0.01, total=20)
    done = encoder(provider, patience=impatient, in_flight=1).encode_documents(TEXTS[:3])
    assert_right(done, TEXTS[:3])
    assert len(provider.asked) == 2


def test_an_answer_without_end_is_not_read_to_its_end(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_requests, "_MOST_BYTES", 1_000)
    with pytest.raises(EmbeddingsError, match="it has more than 1,000 bytes"):
        encoder(provider).encode_documents(TEXTS[:1])


def test_a_server_that_knows_no_base64_is_asked_for_numbers(provider: Provider) -> None:
    provider.without_base64 = True
    asks = encoder(provider, in_flight=1)
    for _ in range(2):
        assert_right(asks.encode_documents(TEXTS[:3]), TEXTS[:3])
    formats = [body["encoding_format"] for body in provider.asked]
    assert formats == ["base64", "float", "float"]


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
    provider.changes = [misbehaving.not_finite] * 3
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    assert done.failures == {0: "the provider's vector is not finite, 3 times"}
