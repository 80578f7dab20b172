"""Parses and validates the responses of an OpenAI-compatible endpoint, and classifies its errors.

Nothing in a response is trusted.
"""

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
from embeddings_pipeline.encoders.openai.truncation import is_server_length_error
from embeddings_pipeline.entities.model import Vector, Vectors
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    from httpx2 import Headers
    from openai import APIStatusError


# upper bounds for a plausible bill: no tokenizer makes this many tokens of a byte, and a provider
# may put a prompt of this many tokens before each text
_TOKENS_A_BYTE, _TOKENS_OF_A_PROMPT = 4, 1_000


class EmbeddingResponse(NamedTuple):
    """Vectors in the order of their texts, shape (texts, dimension), possibly not finite.

    `tokens` are the billed tokens, None where the response does not say.
    """

    vectors: Vectors
    tokens: int | None


class InvalidResponse(Exception):
    """A response without the requested vectors, of which `tokens` were billed; None if unknown."""

    def __init__(self, reason: str, tokens: int | None = None) -> None:
        super().__init__(reason)
        self.tokens = tokens


def parse_json(body: bytes) -> object:
    """Return the JSON of a response.

    Raises InvalidResponse for a body that is not JSON, and TransientError for an HTML page.
    """
    if body.lstrip()[:1] == b"<":
        # a page of a proxy in front of the provider, which has billed nothing
        raise TransientError("the response is an HTML page, not JSON")
    try:
        return json.loads(body)
    # deeply nested JSON raises RecursionError
    except (ValueError, RecursionError) as error:
        raise InvalidResponse(f"not JSON: {error}") from None


def parse_response(body: Any, texts: Sequence[str], dimension: int | None) -> EmbeddingResponse:
    """Return the vectors of a response's JSON in the order of their indexes.

    Raises InvalidResponse where the response does not have one vector of this dimension for each
    text. A `dimension` of None accepts any dimension that all vectors share.
    """
    if not isinstance(body, dict):
        raise InvalidResponse(f"JSON of type {type(body).__name__}, not an object")
    tokens = _tokens(body, texts)
    if "data" not in body and body.get("error"):
        error = body["error"]
        message = error.get("message") if isinstance(error, dict) else None
        raise InvalidResponse(f"an error: {message or error}", tokens or 0)
    try:
        vectors = _in_order(body["data"], len(texts))
        return EmbeddingResponse(_stacked(vectors, dimension or len(vectors[0])), tokens)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidResponse(f"{type(error).__name__}: {error}", tokens) from None


def _in_order(data: Sequence[Mapping[str, Any]], texts: int) -> list[Vector]:
    if len(data) != texts:
        raise ValueError(f"{len(data)} vectors for {texts} texts")
    by_index = {item["index"]: _vector(item["embedding"]) for item in data}
    if set(by_index) != set(range(texts)):
        raise ValueError(f"the indexes of {texts} vectors are not 0 to {texts - 1}")
    return [by_index[index] for index in range(texts)]


def _vector(embedding: str | Sequence[float]) -> Vector:
    # the client requests base64; some servers send numbers anyway
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


_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
# Request Timeout, Conflict, Too Early, Too Many Requests
_TRANSIENT_STATUSES = {408, 409, 425, 429}


class RejectedInput(Exception):
    """The provider rejects these texts; a retry cannot succeed.

    `full_message` is the provider's whole message. It may contain the key: do not show it.
    """

    def __init__(self, reason: str, full_message: str) -> None:
        super().__init__(reason)
        self.full_message = full_message


class TransientError(Exception):
    """An error that a retry may solve, after at least `after` seconds.

    `input_suspected` says that the texts themselves may cause the error. `billed` are the tokens of
    an invalid response; None where no response came.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        *,
        input_suspected: bool = False,
        billed: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.input_suspected = input_suspected
        self.billed = billed


class RetriesExhausted(EmbeddingsError):
    """A transient error that no retry solved; `last` is the error of the last try."""

    def __init__(self, message: str, last: TransientError) -> None:
        super().__init__(message)
        self.last = last


def classify_error(error: APIStatusError, endpoint: Endpoint, model: str) -> Exception:
    """Return the error that an HTTP status means, with the key removed from its message.

    The result is a TransientError, a RejectedInput, or an EmbeddingsError that ends the run.
    """
    status, host = error.status_code, endpoint.host
    body = error.body
    # servers differ in where they put the message
    full_message = str(
        (body.get("message") if isinstance(body, dict) else None) or body or error.message
    )
    message = endpoint.redacted(full_message)
    if {str(error.code), str(error.type)} & _QUOTA_CODES or status == 402:
        return EmbeddingsError(f"the quota at {host} is exhausted ({status}: {message})")
    if status in (401, 403):
        return ConfigurationError(
            f"{host} does not accept the key ({status}: {message}): set OPENAI_API_KEY to one that"
            f" may use {model!r}"
        )
    if status == 404:
        return ConfigurationError(
            f"{host} has no model {model!r} ({status}: {message}): check the name and"
            " OPENAI_BASE_URL"
        )
    if 300 <= status < 400:
        to = endpoint.redacted(error.response.headers.get("location", "another address"))
        return ConfigurationError(
            f"{host} redirects to {to} ({status}), and redirects are not followed: set"
            " OPENAI_BASE_URL to the provider's address"
        )
    if status == 500 and is_server_length_error(full_message):
        return RejectedInput(f"{host} rejects the texts ({status}: {message})", full_message)
    if status in _TRANSIENT_STATUSES or status >= 500:
        after = _retry_after(error.response.headers)
        return TransientError(f"{status}: {message}", after, input_suspected=status >= 500)
    return RejectedInput(f"{host} rejects the texts ({status}: {message})", full_message)


def _retry_after(headers: Headers) -> float | None:
    """Return the seconds of a retry-after header, which may hold a number or a date; or None."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            after = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(after):
            return after
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    # a date may be out of the platform's range
    except (KeyError, ValueError, OverflowError, OSError):
        return None
