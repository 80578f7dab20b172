"""A stream of texts to a provider: requests all the time, and nothing that is paid for is lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count
from threading import Barrier, Event

import numpy as np
import pytest

from embeddings_pipeline.encoders.openai import client
from embeddings_pipeline.encoders.openai.client import Timeouts
from embeddings_pipeline.encoders.openai.isolation import Session
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support import provider as misbehaving
from tests.support.asking import SMALL, TEXTS, encoder
from tests.support.provider import BROKEN, KEY, Change, Provider, Trouble
from tests.support.streaming import SECONDS, Source, Streamed, streamed, threads_of_streams
from tests.support.waiting import until

REVOKED: Trouble = (401, {"message": "revoked"}, {})
POISONED: Trouble = (400, {"message": "a text cannot be encoded"}, {})


def assert_right(done: Streamed, texts: list[str]) -> None:
    """Each place that came out without a failure has exactly the vector of its text."""
    assert len({*done.places}) == len(done.places)
    vectors = done.vectors(1536)
    for place in {*done.places} - {*done.failures}:
        wanted = misbehaving.vector_of(texts[place], 1536)
        np.testing.assert_array_equal(vectors[place], wanted, err_msg=texts[place])


def test_each_text_comes_out_once_and_what_was_billed_is_counted(provider: Provider) -> None:
    texts = [*TEXTS[:13], "", "word " * 20_000, *TEXTS[13:]]
    done = streamed(encoder(provider).encode_stream(texts))
    assert (done.raised, done.places) == (None, [*range(len(texts))])
    assert done.failures == {13: "the text is empty"}
    sent = {text for body in provider.asked for text in body["input"]}
    assert {*TEXTS} < sent
    (cut,) = sent - {*TEXTS}
    assert_right(done, [cut if text == texts[14] else text for text in texts])
    assert (done.usage.texts, done.usage.truncated) == (len(texts) - 1, 1)
    assert done.usage.tokens == provider.tokens
    assert {*provider.billed.values()} == {1}


def test_a_request_has_no_more_texts_and_tokens_than_allowed(provider: Provider) -> None:
    streamed(encoder(provider, batch_texts=7).encode_stream(TEXTS))
    assert sorted(len(body["input"]) for body in provider.asked) == [5] + [7] * 5
    provider.asked.clear()
    long = [f"{n} " + "word " * 99 for n in range(40)]
    streamed(encoder(provider, batch_texts=2048, batch_tokens=500).encode_stream(long))
    assert [len(body["input"]) for body in provider.asked] == [4] * 10


def test_as_many_requests_are_in_flight_as_may_be_all_the_time(provider: Provider) -> None:
    three = Barrier(3)

    def meet(texts: list[str]) -> None:
        three.wait(SECONDS)

    provider.chance = meet
    # twelve requests: they end only if three of them are always there
    done = streamed(encoder(provider, batch_texts=1, in_flight=3).encode_stream(TEXTS[:12]))
    assert done.places == [*range(12)]
    assert provider.most_at_once == 3


def test_a_slow_answer_holds_up_none_of_the_others(provider: Provider) -> None:
    others = Event()

    def slow(texts: list[str]) -> None:
        assert texts[0] != TEXTS[0] or others.wait(SECONDS)

    provider.chance = slow
    batches = encoder(provider, batch_texts=4, in_flight=2).encode_stream(TEXTS)
    given = [place for _ in range(9) for place in next(batches).places]
    assert sorted(given) == [*range(4, 40)]
    others.set()
    assert streamed(batches).places == [*range(4)]


def test_answers_come_out_while_the_source_waits(provider: Provider) -> None:
    source = Source(TEXTS, pause=25)
    batches = encoder(provider).encode_stream(source)
    given: list[int] = []
    # the last request is sent although it is not full
    while len(given) < 25:
        given += next(batches).places
    assert sorted(given) == [*range(25)]
    source.go_on.set()
    assert streamed(batches).places == [*range(25, 40)]


def test_nothing_is_sent_while_the_consumer_asks_for_nothing(provider: Provider) -> None:
    source = Source(f"text {n}" for n in count())
    asks = encoder(provider, batch_texts=10, batch_tokens=1_000, in_flight=2)
    with closing(asks.encode_stream(source)) as batches:
        next(batches)
        until(lambda: len(provider.asked) == 1 + 2 * 2)
        next(batches)
        until(lambda: len(provider.asked) == 2 + 2 * 2 and source.read > 512)
    assert len(provider.asked) == 2 + 2 * 2
    # what was sent, two batches that are cut and two that are counted, two chunks, and one text
    assert source.read <= 60 + 2 * 20 + 2 * 512 + 1


def test_what_is_in_flight_when_the_key_is_refused_comes_out_before_the_error(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, refused = Barrier(2), Event()
    failed = Session.failed

    def noted(self: Session, error: BaseException) -> BaseException:
        first = failed(self, error)
        refused.set()
        return first

    monkeypatch.setattr(Session, "failed", noted)

    def chance(texts: list[str]) -> Trouble | None:
        if texts == ["probe"]:
            return REVOKED
        both.wait(SECONDS)
        if texts[0] == TEXTS[0]:
            return REVOKED
        assert refused.wait(SECONDS)
        return None

    provider.chance = chance
    done = streamed(encoder(provider, in_flight=2).encode_stream(TEXTS))
    assert isinstance(done.raised, ConfigurationError)
    assert "revoked" in str(done.raised)
    assert done.places == [*range(10, 20)]
    assert_right(done, TEXTS)
    assert done.usage.tokens == provider.tokens
    # nothing but the probe was sent after it
    assert len(provider.asked) == 3


def test_what_was_answered_of_a_request_that_ends_the_run_comes_out_before_the_error(
    provider: Provider,
) -> None:
    # the last one is cut before it is sent
    texts = ["pump", "hose", "poison", "valve " * 20_000]
    refused: list[str] = []

    def chance(asked: list[str]) -> Trouble | None:
        if asked[0].startswith("valve"):
            refused.append(asked[0])
        return REVOKED if refused else None

    provider.chance = chance
    done = streamed(encoder(provider).encode_stream(texts))
    assert "revoked" in str(done.raised)
    assert done.places == [0, 1, 2]
    assert [*done.failures] == [2]
    assert_right(done, texts)
    assert (done.usage.texts, done.usage.tokens) == (2, provider.tokens)
    assert done.usage.truncated == 0


@pytest.mark.parametrize(
    ("change", "usable"), [(misbehaving.one_less, []), (misbehaving.shorter, [6, 7, 8, 9])]
)
def test_answers_that_cannot_be_used_are_counted_though_they_have_no_texts(
    provider: Provider, change: Change, usable: list[int]
) -> None:
    provider.chance = lambda texts: None if "number 5" in texts[0] else change
    done = streamed(encoder(provider, batch_texts=5, in_flight=1).encode_stream(TEXTS[5:20]))
    assert "cannot be used" in str(done.raised)
    assert [[*batch.places] for batch in done.batches] == [[*range(5)], usable]
    assert done.batches[1].encodings.vectors.shape == (len(usable), 1536)
    assert done.usage.tokens == provider.tokens
    assert done.usage.texts == 5 + len(usable)


def test_the_provider_is_probed_before_it_is_a_texts_fault(provider: Provider) -> None:
    texts = [f"poison {n}" if n % 5 == 2 else f"text {n}" for n in range(40)]
    done = streamed(encoder(provider, batch_texts=5).encode_stream(texts))
    assert (done.raised, done.places) == (None, [*range(40)])
    assert sorted(done.failures) == [*range(2, 40, 5)]
    assert_right(done, texts)
    # at most once for a request and once for a text, and not where others have just succeeded
    assert 1 <= provider.billed["probe"] <= 2 * 8
    assert done.usage.tokens == provider.tokens


def test_texts_that_the_provider_stumbles_over_fail_alone(provider: Provider) -> None:
    texts = [*TEXTS[:7], "stumble", *TEXTS[7:]]
    provider.chance = lambda asked: BROKEN if "stumble" in asked else None
    done = streamed(encoder(provider).encode_stream(texts))
    assert (done.raised, done.places, [*done.failures]) == (None, [*range(41)], [7])
    assert_right(done, texts)
    assert done.usage.tokens == provider.tokens


def test_what_the_source_raises_comes_after_what_was_sent(provider: Provider) -> None:
    asked, raised = Event(), Event()

    def failing() -> Iterator[str]:
        yield from TEXTS[:10]
        assert asked.wait(SECONDS)
        raised.set()
        raise ValueError("the source is broken")

    def chance(texts: list[str]) -> None:
        asked.set()
        assert raised.wait(SECONDS)

    provider.chance = chance
    done = streamed(encoder(provider).encode_stream(failing()))
    assert str(done.raised) == "the source is broken"
    assert done.places == [*range(10)]
    assert done.usage.tokens == provider.tokens


PATIENT = Timeouts(answer=60, total=300)


def test_a_pause_that_the_provider_asks_for_ends_when_the_run_is_to_stop(
    provider: Provider,
) -> None:
    provider.chance = lambda texts: None if TEXTS[0] in texts else (429, {}, {"Retry-After": "60"})
    stopping = Event()
    stream = encoder(provider, in_flight=2, timeouts=PATIENT, stopping=stopping.is_set)
    batches = stream.encode_stream(TEXTS)
    assert [*next(batches).places] == [*range(10)]
    until(lambda: len(provider.asked) == 3)
    stopping.set()
    done = streamed(batches)
    assert isinstance(done.raised, EmbeddingsError)
    assert done.places == []
    assert len(provider.asked) == 3


def test_an_answer_in_flight_is_not_waited_for_long_when_the_run_is_to_stop(
    provider: Provider,
) -> None:
    assert PATIENT.grace + client._STEP_SECONDS < 2
    provider.troubles = ["silent"]
    hasty = replace(PATIENT, grace=0.1)
    stream = encoder(provider, timeouts=hasty, stopping=lambda: bool(provider.asked))
    done = streamed(stream.encode_stream(TEXTS[:1]))
    assert "stopped before the response came" in str(done.raised)


def test_a_stop_is_heard_while_the_source_waits(provider: Provider) -> None:
    source = Source(TEXTS, pause=10)
    stopping = Event()
    stream = encoder(provider, stopping=stopping.is_set)
    with closing(stream.encode_stream(source)) as batches:
        assert [*next(batches).places] == [*range(10)]
        assert source.waiting.wait(SECONDS)
        stopping.set()
        done = streamed(batches)
    assert "stopped before all texts were sent" in str(done.raised)
    source.go_on.set()
    until(lambda: not threads_of_streams())
    assert source.read == 11


def test_who_waits_to_try_again_need_not_once_the_key_is_refused(provider: Provider) -> None:
    pausing = Event()

    def chance(texts: list[str]) -> Trouble:
        if texts[0] == TEXTS[0]:
            pausing.set()
            return 429, {"message": "too many"}, {"Retry-After": "60"}
        assert pausing.wait(SECONDS)
        return REVOKED

    provider.chance = chance
    done = streamed(encoder(provider, in_flight=2, timeouts=PATIENT).encode_stream(TEXTS))
    # and what it raises then is not what ended the run
    assert "revoked" in str(done.raised)
    assert (done.batches, len(provider.asked)) == ([], 3)


def test_the_first_error_is_what_all_requests_raise(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, second = Barrier(2), Event()
    failed = Session.failed

    def late(self: Session, error: BaseException) -> BaseException:
        first = failed(self, error)
        if "revoked" in str(error):
            # what the other one raises comes before
            assert second.wait(SECONDS)
        second.set()
        return first

    def chance(texts: list[str]) -> Trouble:
        if texts == ["probe"]:
            return REVOKED
        both.wait(SECONDS)
        if texts[0] == TEXTS[0]:
            return 429, {"message": "too many"}, {"Retry-After": "60"}
        return REVOKED

    monkeypatch.setattr(Session, "failed", late)
    provider.chance = chance
    done = streamed(encoder(provider, in_flight=2, timeouts=PATIENT).encode_stream(TEXTS))
    assert "revoked" in str(done.raised)


def test_closing_sends_no_more_and_ends_the_threads(provider: Provider) -> None:
    provider.chance = lambda texts: None if TEXTS[0] in texts else (429, {}, {"Retry-After": "60"})
    batches = encoder(provider, in_flight=2, timeouts=PATIENT).encode_stream(TEXTS)
    next(batches)
    until(lambda: len(provider.asked) == 3)
    batches.close()
    assert threads_of_streams() == []
    assert len(provider.asked) == 3


def test_a_key_that_was_never_right_sends_few_requests(provider: Provider) -> None:
    wrong = encoder(provider, SMALL, key=KEY[:-1], batch_texts=1, in_flight=2)
    done = streamed(wrong.encode_stream(f"text {n}" for n in count()))
    assert isinstance(done.raised, ConfigurationError)
    assert (done.batches, len(provider.asked) <= 4) == ([], True)


def test_a_query_is_answered_while_documents_wait_for_their_turn(provider: Provider) -> None:
    answered = Event()
    released = []

    def hold_documents(texts: list[str]) -> None:
        if texts != ["pump"]:
            released.append(answered.wait(10))

    provider.chance = hold_documents
    asks = encoder(provider, batch_texts=1, in_flight=1, timeouts=PATIENT)
    documents = asks.encode_stream(TEXTS[:3])
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(streamed, documents)
        until(lambda: provider.at_once == 1)
        assert asks.encode_query(["pump"]).failures == {}
        assert released == []
        answered.set()
        assert done.result(SECONDS).places == [0, 1, 2]
