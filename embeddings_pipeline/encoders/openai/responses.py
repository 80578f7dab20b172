"""Reads what an OpenAI-compatible endpoint answers, trusts none of it, and says what an error
means for those who asked."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.truncation import is_fault_of_length
from embeddings_pipeline.entities.model import Vector, Vectors
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    from httpx2 import Headers
    from openai import APIStatusError


# no tokenizer makes so many of a byte; and a provider may put a prompt before each text
_TOKENS_A_BYTE, _TOKENS_OF_A_PROMPT = 4, 1_000


class Answer(NamedTuple):
    """Vectors in the order of their texts, shape (texts, dimension), not yet known to be finite;
    `tokens` as the provider billed them, None where it does not say."""

    vectors: Vectors
    tokens: int | None


class Unusable(Exception):
    """An answer that is not what was asked for, though its `tokens` were billed; None where it does
    not say how many."""

    def __init__(self, reason: str, tokens: int | None = None) -> None:
        super().__init__(reason)
        self.tokens = tokens


def json_of(body: bytes) -> object:
    """The JSON of an answer. Raises Unusable where it is none, and Passing for a page."""
    if body.lstrip()[:1] == b"<":
        # of whoever stands before the provider, which has billed nothing
        raise Passing("the answer is a page, not JSON")
    try:
        return json.loads(body)
    # JSON that is nested too deep is no ValueError
    except (ValueError, RecursionError) as error:
        raise Unusable(f"it is not JSON: {error}") from None


def read_answer(body: Any, texts: Sequence[str], dimension: int | None) -> Answer:
    """The vectors of an answer's JSON, put in the order of their indexes.

    Raises Unusable where they are not one for each text, or not of this dimension; None is any,
    the same for all.
    """
    if not isinstance(body, dict):
        raise Unusable(f"the answer is JSON of type {type(body).__name__}, not an object")
    tokens = _tokens(body, texts)
    if "data" not in body and body.get("error"):
        error = body["error"]
        said = error.get("message") if isinstance(error, dict) else None
        raise Unusable(f"it is an error: {said or error}", tokens or 0)
    try:
        vectors = _in_order(body["data"], len(texts))
        return Answer(_stacked(vectors, dimension or len(vectors[0])), tokens)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unusable(f"{type(error).__name__}: {error}", tokens) from None


def _in_order(data: Sequence[Mapping[str, Any]], texts: int) -> list[Vector]:
    if len(data) != texts:
        raise ValueError(f"{len(data)} vectors for {texts} texts")
    by_index = {item["index"]: _vector(item["embedding"]) for item in data}
    if set(by_index) != set(range(texts)):
        raise ValueError(f"the indexes of {texts} vectors are not 0 to {texts - 1}")
    return [by_index[index] for index in range(texts)]


def _vector(embedding: str | Sequence[float]) -> Vector:
    # the client asks for base64; some servers answer with numbers all the same
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.asarray(embedding, np.float32)


def _stacked(vectors: Sequence[Vector], dimension: int) -> Vectors:
    if not dimension:
        raise ValueError("a vector of no dimensions")
    for vector in vectors:
        if vector.shape != (dimension,):
            raise ValueError(f"a vector of shape {vector.shape}, not of {dimension} dimensions")
    return np.stack(vectors)


def _tokens(body: Mapping[str, Any], texts: Sequence[str]) -> int | None:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    most = sum(_TOKENS_A_BYTE * len(text.encode()) + _TOKENS_OF_A_PROMPT for text in texts)
    for name in ("total_tokens", "prompt_tokens"):
        tokens = usage.get(name)
        if type(tokens) is int and 0 < tokens <= most:
            return tokens
    return None


_EXHAUSTED = {"insufficient_quota", "billing_hard_limit_reached"}
# timeout, conflict, too early, too many
_PASSING = {408, 409, 425, 429}


class Refused(Exception):
    """The provider does not take these texts, and will not another time.

    `in_full` is all that it says of that, for reading, not for telling: it may hold the key.
    """

    def __init__(self, reason: str, in_full: str) -> None:
        super().__init__(reason)
        self.in_full = in_full


class Passing(Exception):
    """What may go by itself, at the soonest in `after` seconds.

    `by_texts` where the texts could be what the provider stumbles over; `billed` are the tokens of
    an answer that came but cannot be used.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        *,
        by_texts: bool = False,
        billed: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.by_texts = by_texts
        self.billed = billed


class Exhausted(EmbeddingsError):
    """What did not go by, in all the tries there were; `last` is what happened in the last of
    them."""

    def __init__(self, said: str, last: Passing) -> None:
        super().__init__(said)
        self.last = last


def meaning(error: APIStatusError, endpoint: Endpoint, model: str) -> Exception:
    """Passing, Refused, or an error that ends the run; without the key, whatever was answered."""
    status, host = error.status_code, endpoint.host
    body = error.body
    # not every server puts its words where OpenAI does
    in_full = str(
        (body.get("message") if isinstance(body, dict) else None) or body or error.message
    )
    said = endpoint.redacted(in_full)
    if {str(error.code), str(error.type)} & _EXHAUSTED or status == 402:
        return EmbeddingsError(f"the quota at {host} is exhausted ({status}: {said})")
    if status in (401, 403):
        return ConfigurationError(
            f"{host} does not accept the key ({status}: {said}): set OPENAI_API_KEY to one that"
            f" may use {model!r}"
        )
    if status == 404:
        return ConfigurationError(
            f"{host} has no model {model!r} ({status}: {said}): check the name, and OPENAI_BASE_URL"
        )
    if 300 <= status < 400:
        to = endpoint.redacted(error.response.headers.get("location", "another address"))
        return ConfigurationError(
            f"{host} sends on to {to} ({status}), where texts are not sent: set OPENAI_BASE_URL to"
            " where the provider is"
        )
    if status == 500 and is_fault_of_length(in_full):
        return Refused(f"{host} refuses it ({status}: {said})", in_full)
    if status in _PASSING or status >= 500:
        after = _retry_after(error.response.headers)
        return Passing(f"{status}: {said}", after, by_texts=status >= 500)
    return Refused(f"{host} refuses it ({status}: {said})", in_full)


def _retry_after(headers: Headers) -> float | None:
    """Seconds, from milliseconds, from seconds or from a date; None where none is given."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            after = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(after):
            return after
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    # a date may be beyond what this machine can count
    except (KeyError, ValueError, OverflowError, OSError):
        return None
