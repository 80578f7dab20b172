"""Servers of open models behind OpenAI's API: text-embeddings-inference, vLLM and Infinity, with
the status and the body that each of them gives for a request that it does not serve."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support import provider as misbehaving
from tests.support.asking import SMALL, TEXTS, assert_right, encoder
from tests.support.provider import Provider, Trouble, tokens_of
from tests.support.streaming import streamed

LIMIT = 32
LONG = "word " * 100
Refusal = Callable[[int, str, str], Trouble]


def body(status: int, content: object) -> Trouble:
    return status, json.dumps(content), {"Content-Type": "application/json"}


def tei(status: int, kind: str, message: str) -> Trouble:
    """text-embeddings-inference at /v1/embeddings (router/src/http/types.rs)."""
    return body(status, {"message": message, "code": status, "type": kind})


def tei_native(status: int, kind: str, message: str) -> Trouble:
    """The same at /embed, and behind gateways that pass it on."""
    return body(status, {"error": message, "error_type": kind})


def vllm(status: int, kind: str, message: str) -> Trouble:
    return body(
        status, {"error": {"message": message, "type": kind, "param": None, "code": status}}
    )


def vllm_before(status: int, kind: str, message: str) -> Trouble:
    """Other versions of vLLM."""
    return body(
        status,
        {"object": "error", "message": message, "type": kind, "param": None, "code": status},
    )


def infinity(status: int, message: str) -> Trouble:
    """Infinity (fastapi_schemas/errors.py)."""
    error = {"message": message, "type": None, "param": None, "code": status}
    return body(status, {"error": error})


def too_many(sent: int, allowed: int) -> Trouble:
    """Infinity, whose request is checked by pydantic."""
    said = f"List should have at most {allowed} items after validation, not {sent}"
    return body(422, {"detail": [{"type": "too_long", "loc": ["body", "input"], "msg": said}]})


@pytest.mark.parametrize(
    "refusal",
    [
        lambda n: tei(413, "Validation", f"batch size {n} > maximum allowed batch size {LIMIT}"),
        lambda n: tei_native(
            422, "Validation", f"batch size {n} > maximum allowed batch size {LIMIT}"
        ),
        lambda n: too_many(n, LIMIT),
    ],
    ids=["tei", "tei native", "infinity"],
)
def test_requests_become_as_small_as_the_server_says(
    provider: Provider, refusal: Callable[[int], Trouble]
) -> None:
    texts = [f"text number {n}" for n in range(1_000)]
    provider.chance = lambda sent: refusal(len(sent)) if len(sent) > LIMIT else None
    done = streamed(encoder(provider, batch_texts=100, in_flight=1).encode_stream(texts))
    assert (done.raised, done.failures) == (None, {})
    assert {*provider.billed} - {"probe"} == {*texts}
    # later requests are of that size: only the first one was refused
    assert sum(len(sent["input"]) > LIMIT for sent in provider.asked) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        lambda n: tei(
            413,
            "Validation",
            f"Input validation error: `inputs` must have less than 50 tokens. Given: {n}",
        ),
        lambda n: tei_native(
            413,
            "Validation",
            f"Input validation error: `inputs` must have less than 50 tokens. Given: {n}",
        ),
        lambda n: vllm(
            400,
            "BadRequestError",
            f"This model's maximum context length is 50 tokens. However, you requested {n} tokens"
            " in the input for embedding generation. Please reduce the length of the input.",
        ),
        lambda n: vllm_before(
            400,
            "BadRequestError",
            f"The decoder prompt (length {n}) is longer than the maximum model length of 50. Make"
            " sure that `max_model_len` is no smaller than the number of text tokens.",
        ),
    ],
    ids=["tei", "tei native", "vllm", "vllm before"],
)
def test_a_text_that_is_too_long_is_cut_to_what_the_server_reads(
    provider: Provider, refusal: Callable[[int], Trouble]
) -> None:
    def refuse(sent: Sequence[str]) -> Trouble | None:
        longest = max(map(tokens_of, sent))
        return refusal(longest) if longest > 50 else None

    provider.chance = refuse
    texts = [*TEXTS[:5], LONG, *TEXTS[5:10]]
    done = encoder(provider, in_flight=1).encode_documents(texts)
    assert (done.failures, done.usage.truncated) == ({}, 1)
    (cut,) = {*provider.billed} - {*texts, "probe"}
    assert LONG.startswith(cut)
    assert 40 <= tokens_of(cut) <= 50
    wanted = misbehaving.vector_of(cut, 1536)
    np.testing.assert_array_equal(done.vectors[5], wanted)


@pytest.mark.parametrize(
    "refused",
    [
        tei(429, "Overloaded", "Model is overloaded"),
        tei(503, "Unhealthy", "unhealthy"),
        infinity(429, "model overloaded"),
    ],
    ids=["tei", "tei that starts", "infinity"],
)
def test_a_server_that_takes_two_requests_at_a_time_gets_few_more(
    provider: Provider, refused: Trouble
) -> None:
    outcomes = Counter[bool]()

    def refuse(sent: Sequence[str]) -> Trouble | None:
        busy = provider.at_once > 2
        outcomes[busy] += 1
        if not busy:
            # so long that as many requests as may be are there
            time.sleep(0.01)
        return refused if busy else None

    provider.chance = refuse
    texts = [f"text number {n}" for n in range(400)]
    done = streamed(encoder(provider, batch_texts=2, in_flight=64).encode_stream(texts))
    assert (done.raised, done.failures) == (None, {})
    assert {provider.billed[text] for text in texts} == {1}
    assert outcomes[True] < outcomes[False]


def test_a_model_that_has_no_memory_for_a_request_gets_smaller_ones(provider: Provider) -> None:
    """The first of them is tried again: another replica might have more."""
    out_of_memory = tei(424, "Backend", 'DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")')
    provider.chance = lambda sent: out_of_memory if len(sent) > 10 else None
    done = encoder(provider, batch_texts=40, in_flight=1).encode_documents(TEXTS)
    assert_right(done, TEXTS)


def test_a_model_that_fails_on_everything_is_no_error_of_the_configuration(
    provider: Provider,
) -> None:
    asks = encoder(provider, SMALL, in_flight=1)
    provider.always = tei(424, "Backend", "the device is lost")
    with pytest.raises(EmbeddingsError, match="424: the device is lost") as raised:
        asks.encode_documents(TEXTS[:2])
    assert not isinstance(raised.value, ConfigurationError)


def test_a_model_that_fails_on_one_text_fails_that_text_alone(provider: Provider) -> None:
    failed = infinity(500, "InternalServerError: index out of range in self")
    provider.chance = lambda sent: failed if TEXTS[3] in sent else None
    done = encoder(provider, batch_texts=5, in_flight=1).encode_documents(TEXTS[:10])
    assert "index out of range" in done.failures[3]
    assert_right(done, TEXTS[:10], failed=[3])


def test_a_model_that_is_not_served_is_named(provider: Provider) -> None:
    said = f"The model `{SMALL}` does not exist."
    provider.always = vllm(404, "NotFoundError", said)
    with pytest.raises(ConfigurationError, match="does not exist"):
        encoder(provider, in_flight=1).encode_documents(TEXTS[:2])
