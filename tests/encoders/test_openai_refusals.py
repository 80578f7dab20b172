"""What a provider refuses: a text, a key, everything."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from embeddings_pipeline.encoders.openai.client import Timeouts
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support import provider as misbehaving
from tests.support.asking import TEXTS, assert_right, encoder
from tests.support.provider import KEY, Provider, Trouble


def test_a_poisoned_text_fails_alone_and_the_others_are_paid_once(provider: Provider) -> None:
    texts = [*TEXTS[:13], "a poisoned one", *TEXTS[13:]]
    done = encoder(provider).encode_documents(texts)
    assert_right(done, texts, failed=[13])
    assert "400: a text cannot be encoded" in done.failures[13]
    assert {provider.billed[text] for text in TEXTS} == {1}
    assert done.usage.tokens == provider.tokens


def test_a_provider_that_refuses_everything_ends_the_run(provider: Provider) -> None:
    provider.always = (400, {"message": "unknown parameter"}, {})
    with pytest.raises(
        ConfigurationError, match=r"rejects even the text 'probe' \(400: unknown parameter"
    ):
        encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    ("status", "error", "kind", "said"),
    [
        (401, {"message": f"wrong key {KEY}"}, ConfigurationError, "set OPENAI_API_KEY"),
        (403, {"message": "no access"}, ConfigurationError, "set OPENAI_API_KEY"),
        (404, {"message": "no such model"}, ConfigurationError, "OPENAI_BASE_URL"),
        (429, {"code": "insufficient_quota"}, EmbeddingsError, "quota .* is exhausted"),
        (429, {"type": "insufficient_quota"}, EmbeddingsError, "quota .* is exhausted"),
    ],
)
def test_what_concerns_all_texts_ends_it_once_the_probe_is_refused_too(
    provider: Provider, status: int, error: dict[str, str], kind: type[Exception], said: str
) -> None:
    provider.always = (status, error, {"Retry-After": "0"})
    with pytest.raises(kind, match=said) as raised:
        encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert type(raised.value) is kind
    assert len(provider.asked) == (1 if "quota" in said else 2)


def test_who_waits_to_try_again_need_not_once_the_key_is_refused(provider: Provider) -> None:
    provider.troubles = [(429, {}, {"Retry-After": "15"})]
    provider.chance = lambda texts: (401, {"message": "revoked"}, {})
    with pytest.raises(ConfigurationError, match="revoked"):
        encoder(provider, in_flight=2).encode_documents(TEXTS)
    assert len(provider.asked) == 3


def test_what_was_made_before_the_key_was_refused_is_kept(provider: Provider) -> None:
    provider.chance = lambda texts: (
        None if len(provider.asked) < 3 else (401, {"message": "revoked"}, {})
    )

    done = encoder(provider, in_flight=1, batch_texts=2).encode_documents(TEXTS)

    assert isinstance(done.stopped, ConfigurationError)
    assert_right(done, TEXTS, failed=range(4, len(TEXTS)))
    assert (done.usage.texts, done.usage.tokens) == (4, provider.tokens)
    with pytest.raises(ConfigurationError, match="revoked"):
        done.raise_if_stopped()


def test_a_query_has_all_its_vectors_or_none(provider: Provider) -> None:
    provider.chance = lambda texts: (
        None if len(provider.asked) < 2 else (401, {"message": "revoked"}, {})
    )
    with pytest.raises(ConfigurationError, match="revoked"):
        encoder(provider, in_flight=1, batch_texts=2).encode_query(TEXTS)


def test_looking_for_a_refused_text_ends_when_the_run_is_to_stop(provider: Provider) -> None:
    texts = [f"poison {n}" for n in range(10)]
    stops = encoder(provider, in_flight=1, stopping=lambda: len(provider.asked) > 4)
    done = stops.encode_documents(texts)
    assert "stopped before all texts were sent" in str(done.stopped)
    assert len(provider.asked) == 5


def test_an_answer_is_not_waited_for_long_when_the_run_is_to_stop(provider: Provider) -> None:
    provider.troubles = ["silent"]
    patient = Timeouts(answer=60, total=300, grace=0.1)
    encode = encoder(provider, timeouts=patient, stopping=lambda: bool(provider.asked))
    with pytest.raises(EmbeddingsError, match="stopped before the response came"):
        encode.encode_documents(TEXTS[:1])


def test_texts_are_not_sent_where_a_provider_points_to(provider: Provider) -> None:
    with misbehaving.serving() as other:
        provider.troubles = [(307, {}, {"Location": f"{other.url}/embeddings"})]
        with pytest.raises(ConfigurationError, match=r"redirects to http.*set OPENAI_BASE_URL"):
            encoder(provider).encode_documents(TEXTS[:1])
        assert other.asked == []


def test_a_pause_ends_when_the_run_is_to_stop(provider: Provider) -> None:
    provider.always = (429, {}, {"Retry-After": "60"})
    patient = Timeouts(answer=60, total=300)
    encode = encoder(provider, timeouts=patient, stopping=lambda: bool(provider.asked))
    with pytest.raises(EmbeddingsError, match=r"stopped before the response came \(1 tries, 429"):
        encode.encode_documents(TEXTS[:1])


def test_the_key_is_in_no_error_and_no_log(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "sk-wrong-9876543210"
    messages = []
    refused: Trouble = (400, {"message": f"no: {wrong}"}, {})
    broken: Trouble = (500, {"message": wrong}, {})
    for trouble in (None, refused, broken):
        provider.always = trouble
        with pytest.raises(EmbeddingsError) as raised:
            encoder(provider, key=wrong, timeouts=Timeouts(5, 0.1)).encode_documents(["pump"])
        messages += [str(raised.value), repr(raised.value.__dict__)]
    assert "Incorrect API key provided: Bearer …" in messages[0]
    assert wrong not in " ".join(messages) + caplog.text
    assert provider.keys[0] == f"Bearer {wrong}"


@pytest.mark.parametrize("echoed", [[KEY], [f"{'x' * 290}{KEY}"], [KEY * 50]])
def test_the_key_is_in_no_error_about_an_answer_that_holds_it(
    provider: Provider, echoed: list[str]
) -> None:
    provider.chance = lambda texts: lambda answer: answer["data"][0].update(embedding=echoed)
    with pytest.raises(EmbeddingsError, match="cannot be used: the vector has") as raised:
        encoder(provider, in_flight=1).encode_documents(["pump"]).raise_if_stopped()
    assert KEY[:8] not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("quoted", [str, repr, json.dumps])
def test_a_key_with_quotes_and_backslashes_is_in_no_error_either(
    quoted: Callable[[str], str],
) -> None:
    key = "sk-a'b\\c\"d"
    said = Endpoint("http://127.0.0.1/v1", SecretStr(key)).redacted(f"not {quoted(key)}")
    assert "sk-a" not in said


def test_an_endpoint_of_ones_own_needs_no_key(provider: Provider) -> None:
    assert_right(encoder(provider, key=None).encode_documents(["pump"]), ["pump"])
