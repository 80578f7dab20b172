"""Texts that are longer than the model of a provider reads."""

from __future__ import annotations

import pytest

from tests.support import provider as misbehaving
from tests.support.asking import TEXTS, assert_right, encoder
from tests.support.provider import Provider, Trouble


def test_a_text_over_the_limit_is_cut_before_it_is_sent(provider: Provider) -> None:
    texts = ["pump", "word " * 20_000]
    done = encoder(provider).encode_documents(texts)
    assert (done.failures, done.usage.truncated) == ({}, 1)
    sent = [text for body in provider.asked for text in body["input"]]
    assert len(sent) == 2
    assert texts[1].startswith(max(sent, key=len))
    assert misbehaving.tokens_of(max(sent, key=len)) > 6_000


def test_a_text_that_the_provider_finds_too_long_is_cut_as_it_says() -> None:
    with misbehaving.serving(dimension=8, limit=50) as provider:
        texts = [*TEXTS[:5], "word " * 100]
        done = encoder(provider, "openai:some/model").encode_documents(texts)
        assert (done.failures, done.usage.truncated) == ({}, 1)
        assert_right(done, texts[:5], 8)
        (long,) = [text for text in provider.billed if text.startswith("word")]
        assert 40 < misbehaving.tokens_of(long) <= 50
        assert {provider.billed[text] for text in texts[:5]} == {1}


@pytest.mark.parametrize(
    ("said", "least"),
    [
        (
            "decoder prompt (length {asked}) is longer than the maximum model length of {limit}.",
            40,
        ),
        (
            "You passed {asked} input tokens and requested 0 output tokens. However, the"
            " model's context length is only {limit} tokens, so a maximum input length of {limit}",
            40,
        ),
        ("`inputs` must have less than {limit} tokens. Given: {asked}", 40),
        ("the request ({asked} tokens) exceeds the available context size ({limit} tokens)", 40),
        ("the text has {asked} tokens, exceeding max {limit}", 40),
        (
            "x" * 600 + " maximum context length is {limit} tokens, however you requested {asked}",
            40,
        ),
        ("the request exceeds the available context size ({limit} tokens), try increasing it", 20),
        ("the input length exceeds maximum context length", 20),
        ("exceeds maximum allowed token size {limit}", 20),
    ],
)
def test_a_text_is_cut_in_whatever_words_it_is_called_too_long(said: str, least: int) -> None:
    with misbehaving.serving(dimension=8, limit=50) as provider:
        provider.too_long = said
        texts = ["pump", "word " * 100]
        done = encoder(provider, "openai:some/model").encode_documents(texts)
        assert (done.failures, done.usage.truncated) == ({}, 1)
        (long,) = [text for text in provider.billed if text.startswith("word")]
        assert least < misbehaving.tokens_of(long) <= 50


@pytest.mark.parametrize(
    "said",
    [
        "input ({} tokens) is too large to process. (current batch size: 50)",
        "input is too large to process. increase the physical batch size (current batch size: 50)",
    ],
)
def test_a_server_that_fails_on_long_texts_has_them_cut(provider: Provider, said: str) -> None:
    def failing(texts: list[str]) -> Trouble | None:
        longest = max(map(misbehaving.tokens_of, texts))
        return (500, {"message": said.format(longest)}, {}) if longest > 50 else None

    provider.chance = failing
    texts = ["short", "word " * 100]
    done = encoder(provider).encode_documents(texts)
    assert (done.failures, done.usage.truncated) == ({}, 1)
    assert len(provider.asked) < 8


@pytest.mark.parametrize(
    "said", ['Post "http://a/embed": context deadline exceeded', "token quota exceeded", "EOF"]
)
def test_a_server_that_fails_for_a_while_has_no_texts_cut(provider: Provider, said: str) -> None:
    provider.troubles = [(500, {"message": said}, {})] * 6
    done = encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert (done.failures, done.usage.truncated) == ({}, 0)
    assert_right(done, TEXTS)


def test_a_text_that_is_too_long_however_short_it_is_fails_alone() -> None:
    with misbehaving.serving(dimension=8) as provider:
        refusal: Trouble = (400, {"message": "the input length exceeds the context length"}, {})
        provider.chance = lambda texts: refusal if texts[0].startswith("w") else None
        done = encoder(provider, "openai:some/model").encode_documents(["word " * 100])
        assert "input length exceeds" in done.failures[0]
        assert len(provider.asked) < 20


@pytest.mark.parametrize("said", ["an invalid token in the text", "the maximum of 5 is over"])
def test_a_text_that_is_refused_for_another_reason_is_not_cut(
    provider: Provider, said: str
) -> None:
    provider.chance = lambda texts: (400, {"message": said}, {}) if "pump" in texts else None
    done = encoder(provider).encode_documents(["pump"])
    assert (list(done.failures), done.usage.truncated) == ([0], 0)
    assert said in done.failures[0]
