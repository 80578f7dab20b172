"""What passes by itself at a provider is tried again, and no more often than it likes."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from embeddings_pipeline.encoders.openai.client import Timeouts
from embeddings_pipeline.errors import EmbeddingsError
from tests.support import provider as misbehaving
from tests.support.asking import TEXTS, assert_right, encoder
from tests.support.provider import BROKEN, BUSY, Change, Provider, Trouble


@pytest.mark.parametrize("trouble", [BUSY, BROKEN, (503, {}, {}), (408, {}, {}), "hang up"])
def test_what_passes_is_tried_again_and_nothing_is_paid_twice(
    provider: Provider, trouble: Trouble | str
) -> None:
    # a fourth of the same batch would make its texts suspicious
    provider.troubles = [trouble] * 3
    done = encoder(provider).encode_documents(TEXTS)
    assert_right(done, TEXTS)
    assert set(provider.billed.values()) == {1}
    assert len(provider.asked) == 4 + 3


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
    provider.always = (429, {"message": "slow down"}, {name: value})
    with pytest.raises(EmbeddingsError, match=r"in 1 tries and \d s \(429: slow down\)"):
        encoder(provider, timeouts=Timeouts(answer=5, total=0.3)).encode_documents(["pump"])
    assert len(provider.asked) == 1


@pytest.mark.parametrize("value", ["0", "-5", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_provider_that_asks_for_no_pause_gets_growing_ones(
    provider: Provider, value: str
) -> None:
    provider.always = (429, {"message": "slow down"}, {"Retry-After": value})
    # pauses of 0.1, 0.2, 0.4 … s: without them it would be asked hundreds of times
    timeouts = Timeouts(answer=5, total=1)
    with misbehaving.pauses(0.1, 10), pytest.raises(EmbeddingsError, match="slow down"):
        encoder(provider, timeouts=timeouts).encode_documents(["pump"])
    assert len(provider.asked) <= 5


@pytest.mark.parametrize("value", ["Fri, 31 Dec 99999999999 23:59:59 GMT", "nan", "inf"])
def test_a_pause_that_cannot_be_counted_is_as_none(provider: Provider, value: str) -> None:
    provider.troubles = [(429, {"message": "slow down"}, {"Retry-After": value})]
    assert_right(encoder(provider).encode_documents(["pump"]), ["pump"])
    assert len(provider.asked) == 2


def test_retries_end(provider: Provider) -> None:
    provider.always = BROKEN
    # time for more than one try of each batch, on a busy machine too
    timeouts = Timeouts(answer=5, total=2)
    with pytest.raises(EmbeddingsError, match="500: internal error"):
        encoder(provider, timeouts=timeouts).encode_documents(TEXTS)
    assert len(provider.asked) > 4


def test_an_answer_that_does_not_come_is_asked_for_again(provider: Provider) -> None:
    provider.troubles = ["silent"]
    timeouts = Timeouts(answer=1, total=20)
    done = encoder(provider, timeouts=timeouts).encode_documents(["pump"])
    assert_right(done, ["pump"])
    assert len(provider.asked) == 2


@pytest.mark.parametrize("trouble", [BROKEN, misbehaving.one_less])
@pytest.mark.parametrize("others", [TEXTS[:14], []])
def test_a_text_that_the_provider_stumbles_over_fails_alone(
    provider: Provider, trouble: Trouble | Change, others: list[str]
) -> None:
    texts = [*others[:7], "stumble", *others[7:]]
    provider.chance = lambda asked: trouble if "stumble" in asked else None
    done = encoder(provider, in_flight=1).encode_documents(texts)
    assert_right(done, texts, failed=[len(others) // 2])
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
    timeouts = Timeouts(answer=5, total=0.3)
    done = encoder(provider, in_flight=1, timeouts=timeouts).encode_documents(["pump", "stumble"])
    with pytest.raises(EmbeddingsError, match="500: internal error"):
        done.raise_if_stopped()
