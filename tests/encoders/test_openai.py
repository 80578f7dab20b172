"""A remote encoder: what it asks a provider for, and makes of the answers."""

from __future__ import annotations

from collections import Counter
from random import Random
from threading import Barrier

import pytest

from embeddings_pipeline.encoders.openai.client import Timeouts
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support import provider as misbehaving
from tests.support.asking import SMALL, TEXTS, assert_right, encoder
from tests.support.provider import BROKEN, BUSY, UNUSABLE, Change, Provider, Trouble


def test_each_text_gets_its_vector_and_what_the_provider_billed_is_counted(
    provider: Provider,
) -> None:
    done = encoder(provider).encode_documents(TEXTS)
    assert_right(done, TEXTS)
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
    assert_right(done, texts, failed=[1])
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
    with pytest.raises(ConfigurationError, match=f"not `dimension: {dimension}`"):
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
    timeouts = Timeouts(answer=5, total=0.1)
    with pytest.raises(
        EmbeddingsError,
        match=r"127\.0\.0\.1:\d+ returned no vectors .*(111|connection attempts failed)",
    ):
        encoder(gone, timeouts=timeouts).encode_documents(["pump"])


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_vectors_are_right_and_no_text_is_paid_twice_for_nothing(
    provider: Provider, seed: int
) -> None:
    random = Random(seed)
    provider.numbers = random.random() < 0.5
    in_a_row = Counter[tuple[str, ...]]()

    def chance(texts: list[str]) -> Trouble | Change | str | None:
        # a text that fails in every try is rightly taken for one at fault
        if random.random() < 0.5 or in_a_row[*texts,] == 2:
            in_a_row[*texts,] = 0
            return None
        in_a_row[*texts,] += 1
        slow: Trouble = (502, {}, {"retry-after-ms": "2"})
        troubles: list[Trouble | Change | str] = [BUSY, BROKEN, slow, misbehaving.shuffled]
        # a series of unusable answers would rightly end the run
        few = all(provider.billed[text] < 1 for text in texts) and texts != ["probe"]
        return random.choice([*troubles, *troubles, *(UNUSABLE if few else [])])

    provider.chance = chance
    texts = [f"text {n} of {seed}" + " more" * random.randrange(60) for n in range(150)]
    poisoned = set(random.sample(range(150), random.randrange(4)))
    texts = [f"{text} poison" if n in poisoned else text for n, text in enumerate(texts)]
    done = encoder(
        provider, batch_texts=random.choice([1, 7, 50]), in_flight=random.choice([1, 4])
    ).encode_documents(texts)
    assert_right(done, texts, failed=poisoned)
    for index, text in enumerate(texts):
        assert provider.usable[text] <= 1
        assert (provider.billed[text] == 0) == (index in poisoned)
