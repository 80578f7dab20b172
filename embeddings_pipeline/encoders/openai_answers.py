"""Reads what an OpenAI-compatible endpoint answers, and trusts none of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from embeddings_pipeline.encoders.base import Vector, Vectors
from embeddings_pipeline.encoders.openai_errors import Passing

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
