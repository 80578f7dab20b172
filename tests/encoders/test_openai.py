"""A remote encoder against a provider that misbehaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import formatdate
from random import Random
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from embeddings_pipeline.encoders.base import Encodings
from embeddings_pipeline.encoders.openai import OpenAIEncoder, Options
from embeddings_pipeline.encoders.openai_endpoint import Endpoint
from embeddings_pipeline.encoders.openai_models import remote_model
from embeddings_pipeline.encoders.openai_requests import Patience
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.encoders import provider as misbehaving
from tests.encoders.provider import BROKEN, BUSY, KEY, UNUSABLE, Change, Provider, Trouble

SMALL = "text-embedding-3-small"
QUICK = Patience(answer=5, first=0.001, longest=0.01, total=20)
TEXTS = [f"text number {n}" for n in range(40)]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with misbehaving.serving() as provider:
        yield provider


def encoder(
    provider: Provider,
    model: str = SMALL,
    *,
    key: str | None = KEY,
    dimension: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
    **options: Any,
) -> OpenAIEncoder:
    remote = remote_model(model)
    assert remote is not None
    endpoint = Endpoint(provider.url, SecretStr(key) if key else None)
    options = {"patience": QUICK, "batch_texts": 10} | options
    made = OpenAIEncoder(
        *(model, remote, endpoint),
        dimension=dimension,
        options=Options(**options),
        stopping=stopping,
    )
    provider.clients.callback(made.close)
    return made


def assert_right(done: Encodings, texts: Sequence[str], dimension: int = 1536) -> None:
    """Each text that did not fail has exactly its own vector."""
    for index, text in enumerate(texts):
        if index not in done.failures:
            wanted = misbehaving.vector_of(text, dimension)
            np.testing.assert_array_equal(done.vectors[index], wanted, err_msg=text)


def test_each_text_gets_its_vector_and_what_the_provider_billed_is_counted(
    provider: Provider,
) -> None:
    done = encoder(provider).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    assert done.failures == {}
    assert (done.usage.texts, done.usage.tokens) == (len(TEXTS), provider.tokens)
    assert set(provider.billed.values()) == {1}


def test_nothing_is_sent_for_no_texts_or_empty_ones(provider: Provider) -> None:
    assert encoder(provider).encode_documents([]).vectors.shape == (0, 1536)
    done = encoder(provider).encode_documents(["", ""])
    assert done.failures == dict.fromkeys(range(2), "the text is empty")
    assert provider.asked == []


def test_an_empty_text_fails_alone(provider: Provider) -> None:
    texts = ["pump", "", "hose"]
    done = encoder(provider).encode_documents(texts)
    assert_right(done, texts)
    assert list(done.failures) == [1]
    assert done.usage.texts == 2


def test_numbers_instead_of_base64_are_understood(provider: Provider) -> None:
    provider.numbers = True
    assert_right(encoder(provider).encode_documents(TEXTS), TEXTS)


def test_tokens_are_counted_here_where_the_provider_counts_none(provider: Provider) -> None:
    provider.without_usage = True
    assert encoder(provider).encode_documents(["three short words"]).usage.tokens == 5


def test_a_batch_has_no_more_texts_and_tokens_than_allowed(provider: Provider) -> None:
    encoder(provider, batch_texts=7).encode_documents(TEXTS)
    assert max(len(body["input"]) for body in provider.asked) == 7
    provider.asked.clear()
    long = [f"{n} " + "word " * 99 for n in range(40)]
    encoder(provider, batch_texts=2048, batch_tokens=500).encode_documents(long)
    assert {len(body["input"]) for body in provider.asked} == {4}
    assert max(sum(map(misbehaving.tokens_of, body["input"])) for body in provider.asked) <= 500


def test_several_requests_are_in_flight_but_no_more_than_told(provider: Provider) -> None:
    three = Barrier(3)

    def meet(texts: list[str]) -> None:
        three.wait(30)

    provider.chance = meet
    encoder(provider, batch_texts=1, in_flight=3).encode_documents(TEXTS[:12])
    assert provider.most_at_once == 3


@pytest.mark.parametrize("trouble", [BUSY, BROKEN, (503, {}, {}), (408, {}, {}), "hang up"])
def test_what_passes_is_tried_again_and_nothing_is_paid_twice(
    provider: Provider, trouble: Trouble | str
) -> None:
    provider.troubles = [trouble] * 5
    done = encoder(provider).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    assert set(provider.billed.values()) == {1}
    assert len(provider.asked) == 4 + 5


def test_a_storm_of_refusals_is_sat_out(provider: Provider) -> None:
    provider.troubles = [BUSY] * 60
    assert_right(encoder(provider).encode_documents(TEXTS), TEXTS)
    assert set(provider.billed.values()) == {1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("Retry-After", "30"), ("retry-after-ms", "30000"), ("Retry-After", "a date")],
)
def test_a_pause_that_the_provider_asks_for_is_kept(
    provider: Provider, name: str, value: str
) -> None:
    if value == "a date":
        value = formatdate(time.time() + 60, usegmt=True)
    # more than all of the patience: so it is not even tried again
    provider.always = (429, {"message": "slow down"}, {name: value})
    with pytest.raises(EmbeddingsError, match=r"in 1 tries and 0 s \(429: slow down\)"):
        encoder(provider).encode_documents(["pump"])
    assert len(provider.asked) == 1


@pytest.mark.parametrize("value", ["0", "-5", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_provider_that_asks_for_no_pause_gets_growing_ones(
    provider: Provider, value: str
) -> None:
    provider.always = (429, {"message": "slow down"}, {"Retry-After": value})
    # pauses of 0.1, 0.2, 0.4 … s: without them it would be asked hundreds of times
    patience = Patience(answer=5, first=0.1, longest=10, total=1)
    with pytest.raises(EmbeddingsError, match="slow down"):
        encoder(provider, patience=patience).encode_documents(["pump"])
    assert len(provider.asked) <= 5


@pytest.mark.parametrize("value", ["Fri, 31 Dec 99999999999 23:59:59 GMT", "nan", "inf"])
def test_a_pause_that_cannot_be_counted_is_as_none(provider: Provider, value: str) -> None:
    provider.troubles = [(429, {"message": "slow down"}, {"Retry-After": value})]
    assert_right(encoder(provider).encode_documents(["pump"]), ["pump"])
    assert len(provider.asked) == 2


def test_patience_ends(provider: Provider) -> None:
    provider.always = BROKEN
    patience = Patience(answer=5, first=0.001, longest=0.01, total=0.2)
    with pytest.raises(EmbeddingsError, match="500: internal error"):
        encoder(provider, patience=patience).encode_documents(TEXTS)
    assert len(provider.asked) > 4


def test_an_answer_that_does_not_come_is_asked_for_again(provider: Provider) -> None:
    provider.troubles = ["silent"]
    patience = Patience(answer=0.3, first=0.001, longest=0.01, total=20)
    done = encoder(provider, patience=patience).encode_documents(["pump"])
    assert_right(done, ["pump"])
    assert len(provider.asked) == 2


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


@pytest.mark.parametrize("trouble", [BROKEN, misbehaving.one_less])
@pytest.mark.parametrize("others", [TEXTS[:14], []])
def test_a_text_that_the_provider_stumbles_over_fails_alone(
    provider: Provider, trouble: Trouble | Change, others: list[str]
) -> None:
    texts = [*others[:7], "stumble", *others[7:]]
    provider.chance = lambda asked: trouble if "stumble" in asked else None
    patience = Patience(answer=5, first=0.001, longest=0.01, total=0.1)
    done = encoder(provider, in_flight=1, patience=patience).encode_documents(texts)
    assert_right(done, texts)
    assert list(done.failures) == [len(others) // 2]
    said = "500: internal error" if trouble is BROKEN else "0 vectors for 1 texts"
    assert said in done.failures[len(others) // 2]
    assert done.usage.tokens == provider.tokens
    assert {provider.usable[text] for text in others} <= {1}


def test_a_provider_that_goes_away_while_a_text_is_looked_for_blames_none(
    provider: Provider,
) -> None:
    def chance(texts: list[str]) -> Trouble | None:
        away = provider.billed["probe"] > 0
        return BROKEN if away or "stumble" in texts else None

    provider.chance = chance
    patience = Patience(answer=5, first=0.001, longest=0.01, total=0.1)
    with pytest.raises(EmbeddingsError, match="500: internal error"):
        encoder(provider, in_flight=1, patience=patience).encode_documents(["pump", "stumble"])


def test_unusable_answers_are_paid_for(provider: Provider) -> None:
    provider.changes = [misbehaving.one_less, misbehaving.shorter]
    done = encoder(provider).encode_documents(TEXTS)
    assert done.usage.tokens == provider.tokens
    assert sum(provider.billed.values()) == 60


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


def test_a_poisoned_text_fails_alone_and_the_others_are_paid_once(provider: Provider) -> None:
    texts = [*TEXTS[:13], "a poisoned one", *TEXTS[13:]]
    done = encoder(provider).encode_documents(texts)
    assert_right(done, texts)
    assert list(done.failures) == [13]
    assert "400: a text cannot be encoded" in done.failures[13]
    assert {provider.billed[text] for text in TEXTS} == {1}
    assert done.usage.tokens == provider.tokens


def test_a_provider_that_refuses_everything_ends_the_run(provider: Provider) -> None:
    provider.always = (400, {"message": "unknown parameter"}, {})
    with pytest.raises(ConfigurationError, match=r"not even 'probe' .*unknown parameter"):
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
def test_what_does_not_pass_ends_it_at_once(
    provider: Provider, status: int, error: dict[str, str], kind: type[Exception], said: str
) -> None:
    provider.always = (status, error, {"Retry-After": "0"})
    with pytest.raises(kind, match=said) as raised:
        encoder(provider, in_flight=1).encode_documents(TEXTS)
    assert type(raised.value) is kind
    assert len(provider.asked) == 1


def test_who_waits_to_try_again_need_not_once_the_key_is_refused(provider: Provider) -> None:
    provider.troubles = [
        (429, {}, {"Retry-After": "15"}),
        (401, {"message": "revoked"}, {}),
    ]
    with pytest.raises(ConfigurationError, match="revoked"):
        encoder(provider, in_flight=2).encode_documents(TEXTS)
    assert len(provider.asked) == 2


def test_what_was_made_before_the_key_was_refused_is_kept(provider: Provider) -> None:
    provider.changes = [None, None]
    provider.troubles = [None, None, (401, {"message": "revoked"}, {})]

    done = encoder(provider, in_flight=1, batch_texts=2).encode_documents(TEXTS)

    assert isinstance(done.stopped, ConfigurationError)
    assert [*done.failures] == [*range(4, len(TEXTS))]
    assert_right(done, TEXTS)
    assert (done.usage.texts, done.usage.tokens) == (4, provider.tokens)
    with pytest.raises(ConfigurationError, match="revoked"):
        done.whole()


def test_a_query_has_all_its_vectors_or_none(provider: Provider) -> None:
    provider.troubles = [None, (401, {"message": "revoked"}, {})]
    with pytest.raises(ConfigurationError, match="revoked"):
        encoder(provider, in_flight=1, batch_texts=2).encode_query(TEXTS)


def test_a_pause_ends_when_the_run_is_to_stop(provider: Provider) -> None:
    provider.always = (429, {}, {"Retry-After": "60"})
    patient = Patience(answer=60, total=300)
    encode = encoder(provider, patience=patient, stopping=lambda: bool(provider.asked))
    with pytest.raises(EmbeddingsError, match=r"gave no vectors of .* in 1 tries"):
        encode.encode_documents(TEXTS[:1])


def test_the_key_is_in_no_error_and_no_log(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "sk-wrong-9876543210"
    messages = []
    for trouble in (None, (400, {"message": f"no: {wrong}"}, {}), (500, {"message": wrong}, {})):
        provider.always = trouble
        with pytest.raises(EmbeddingsError) as raised:
            encoder(provider, key=wrong, patience=Patience(5, 0.001, 0.01, 0.1)).encode_documents(
                ["pump"]
            )
        messages += [str(raised.value), repr(raised.value.__dict__)]
    assert "Incorrect API key provided: Bearer …" in messages[0]
    assert wrong not in " ".join(messages) + caplog.text
    assert provider.keys[0] == f"Bearer {wrong}"


@pytest.mark.parametrize("echoed", [[KEY], [f"{'x' * 290}{KEY}"], [KEY * 50]])
def test_the_key_is_in_no_error_about_an_answer_that_holds_it(
    provider: Provider, echoed: list[str]
) -> None:
    provider.chance = lambda texts: lambda answer: answer["data"][0].update(embedding=echoed)
    with pytest.raises(EmbeddingsError, match="cannot be used: ValueError") as raised:
        encoder(provider, in_flight=1).encode_documents(["pump"])
    assert KEY[:8] not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_an_endpoint_of_ones_own_needs_no_key(provider: Provider) -> None:
    assert_right(encoder(provider, key=None).encode_documents(["pump"]), ["pump"])


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


def test_a_known_model_is_identified_without_asking(provider: Provider) -> None:
    identity = encoder(provider).identity
    assert (identity.provider, identity.model, identity.dimension) == ("openai", SMALL, 1536)
    assert identity.normalized
    assert identity.revision == f"{SMALL}@127.0.0.1:{provider.server_port}"
    assert provider.asked == []


def test_a_dimension_can_be_shortened(provider: Provider) -> None:
    made = encoder(provider, dimension=256)
    assert_right(made.encode_documents(TEXTS), TEXTS, 256)
    assert made.identity.dimension == 256
    assert {body["dimensions"] for body in provider.asked} == {256}
    provider.asked.clear()
    encoder(provider, dimension=1536).encode_documents(["pump"])
    assert "dimensions" not in provider.asked[0]


@pytest.mark.parametrize(("model", "dimension"), [(SMALL, 1537), ("text-embedding-ada-002", 512)])
def test_a_dimension_that_cannot_be_had_is_refused(
    provider: Provider, model: str, dimension: int
) -> None:
    with pytest.raises(ConfigurationError, match=f"`dimension: {dimension}` cannot be had"):
        encoder(provider, model, dimension=dimension)


def test_the_dimension_of_an_unknown_model_is_asked_once() -> None:
    with misbehaving.serving(dimension=24) as provider:
        made = encoder(provider, "openai:BAAI/bge-m3")
        assert (made.identity.dimension, made.identity.model) == (24, "openai:BAAI/bge-m3")
        assert_right(made.encode_documents(TEXTS), TEXTS, 24)
        assert_right(made.encode_query(TEXTS), TEXTS, 24)
        assert {body["model"] for body in provider.asked} == {"BAAI/bge-m3"}
        assert provider.billed["probe"] == 1
        assert not any("dimensions" in body for body in provider.asked)


def test_a_provider_that_is_not_there_is_named() -> None:
    with misbehaving.serving() as provider:
        gone = provider
    patience = Patience(answer=5, first=0.001, longest=0.01, total=0.1)
    with pytest.raises(EmbeddingsError, match=r"127\.0\.0\.1:\d+ gave no vectors .*refused"):
        encoder(gone, patience=patience).encode_documents(["pump"])


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_vectors_are_right_and_no_text_is_paid_twice_for_nothing(
    provider: Provider, seed: int
) -> None:
    random = Random(seed)
    provider.numbers = random.random() < 0.5

    def chance(texts: list[str]) -> Trouble | Change | str | None:
        if random.random() < 0.5:
            return None
        troubles = [BUSY, BROKEN, (502, {}, {"retry-after-ms": "2"}), misbehaving.shuffled]
        # a series of unusable answers would rightly end the run
        unusable = UNUSABLE if all(provider.billed[text] < 3 for text in texts) else []
        return random.choice([*troubles, *troubles, *unusable])

    provider.chance = chance
    texts = [f"text {n} of {seed}" + " more" * random.randrange(60) for n in range(150)]
    poisoned = set(random.sample(range(150), random.randrange(4)))
    texts = [f"{text} poison" if n in poisoned else text for n, text in enumerate(texts)]
    done = encoder(
        provider, batch_texts=random.choice([1, 7, 50]), in_flight=random.choice([1, 4])
    ).encode_documents(texts)
    assert set(done.failures) == poisoned
    assert_right(done, texts)
    for index, text in enumerate(texts):
        assert provider.usable[text] <= 1
        assert (provider.billed[text] == 0) == (index in poisoned)
