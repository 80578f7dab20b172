"""Parses and validates the answers of an OpenAI-compatible endpoint. Nothing in one is trusted."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from embeddings_pipeline.entities.model import Vector, Vectors

# upper bounds for a plausible bill: no tokenizer makes this many tokens of a byte, and a provider
# may put a prompt of this many tokens before each text
_TOKENS_A_BYTE, _TOKENS_OF_A_PROMPT = 4, 1_000


class EmbeddingResponse(NamedTuple):
    """Vectors in the order of their texts, shape (texts, dimension).

    `unusable` maps the index of a text to the reason why it has no vector; its row has no meaning.
    `tokens` are the billed tokens, None where the answer does not say.
    """

    vectors: Vectors
    unusable: Mapping[int, str]
    tokens: int | None


class InvalidResponse(Exception):
    """An answer without a usable vector, of which `tokens` were billed; None if unknown.

    `other_format` says that another encoding of the numbers may help. A text may have caused the
    answer, or else, where no text is suspected, the provider did.
    """

    def __init__(
        self,
        reason: str,
        tokens: int | None = None,
        *,
        other_format: bool = False,
        texts_suspected: bool = True,
    ) -> None:
        super().__init__(reason)
        self.tokens = tokens
        self.other_format = other_format
        self.texts_suspected = texts_suspected


def parse_response(body: bytes, texts: Sequence[str], dimension: int | None) -> EmbeddingResponse:
    """Return the vectors of an answer in the order of the texts.

    A `dimension` of None accepts the dimension of the first vector. What the answer lacks is no
    error where it is clear without it: usage, model, object, and the indexes of as many vectors as
    texts. Raises InvalidResponse where it is not clear which vector belongs to which text, or no
    vector is usable.
    """
    content = _json(body)
    tokens = _tokens(content, texts)
    data = content
    if isinstance(content, dict):
        data = content.get("data", content.get("embeddings"))
        # a message beside an empty list may be anything
        stated = content if data is None else {"error": content.get("error")}
        if not data and (error := stated_error(stated)):
            raise InvalidResponse(f"an error: {error}", tokens or 0)
    if not isinstance(data, list):
        raise InvalidResponse("no vectors", tokens, other_format=True)
    if len(data) != len(texts):
        # the indexes may have been counted without the missing ones
        reason = f"{len(data)} vectors for {len(texts)} texts"
        raise InvalidResponse(reason, tokens, other_format=not data)
    embeddings = _in_order(data, tokens)
    vectors: list[Vector] = []
    unusable: dict[int, str] = {}
    for index, embedding in enumerate(embeddings):
        made = _vector(embedding, dimension)
        if isinstance(made, str):
            unusable[index] = made
        else:
            vectors.append(made)
            dimension = dimension or len(made)
    if not vectors:
        # numbers that are written out do not change with the encoding
        encoded = all(isinstance(e, str) or not e for e in embeddings)
        raise InvalidResponse(unusable[0], tokens, other_format=encoded)
    stacked = np.zeros((len(texts), len(vectors[0])), np.float32)
    stacked[[i for i in range(len(texts)) if i not in unusable]] = vectors
    return EmbeddingResponse(stacked, unusable, tokens)


def stated_error(content: object) -> str | None:
    """Return the words of an error, or None where there is none. Servers differ in where they put
    them."""
    found = content
    for key in ("error", "errors", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    if found is content:
        return None
    return found if isinstance(found, str) else json.dumps(found)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    # deeply nested JSON raises RecursionError
    except (ValueError, RecursionError) as error:
        raise InvalidResponse(f"not JSON: {error}", other_format=True) from None


def _in_order(data: list[Any], tokens: int | None) -> list[Any]:
    """Return the embeddings in the order of their indexes, or as they came where none has one. An
    item of null in the place of a text has the index of its place."""
    items = [item if isinstance(item, dict) else {"embedding": item} for item in data]
    embeddings = [item.get("embedding") for item in items]
    named = [_index(item) for item in items]
    if {*named} == {"None"}:
        return embeddings
    for first in (0, 1):
        filled = [str(first + n) if item is None else named[n] for n, item in enumerate(data)]
        places = {name: place for place, name in enumerate(filled)}
        numbers = [str(number) for number in range(first, first + len(data))]
        if {*places} == {*numbers}:
            return [embeddings[places[number]] for number in numbers]
    twice = next((name for name in named if named.count(name) > 1), None)
    raise InvalidResponse(
        f"two vectors have the index {twice}"
        if twice not in (None, "None")
        else f"the vectors have the indexes {', '.join(named[:10])}, not 0 to {len(data) - 1}",
        tokens,
        texts_suspected=False,
    )


def _index(item: Mapping[str, object]) -> str:
    # some servers write numbers as text, or as floats; a bool is neither
    index = item.get("index")
    return f"{index:.0f}" if isinstance(index, float) and index.is_integer() else str(index)


def _vector(embedding: object, dimension: int | None) -> Vector | str:
    """Return a vector, or why the embedding is not usable."""
    if isinstance(embedding, str):
        try:
            # some encoders leave out the padding
            raw = base64.b64decode(embedding + "=" * (-len(embedding) % 4), validate=True)
            vector = np.frombuffer(raw, "<f4")
        except ValueError:
            return "the vector is not the base64 of numbers of four bytes"
    elif isinstance(embedding, list):
        # true is a number to Python, and "0.1" to NumPy
        if {*map(type, embedding)} - {int, float}:
            other = next(value for value in embedding if type(value) not in (int, float))
            return f"the vector has {json.dumps(other)[:50]} in place of a number"
        try:
            with np.errstate(over="ignore"):
                vector = np.array(embedding, np.float32)
        except (TypeError, OverflowError):
            return "the vector has values that are not numbers of four bytes"
    else:
        return f"the vector is {json.dumps(embedding)[:50]}"
    if not len(vector) or len(vector) != (dimension or len(vector)):
        wanted = f", not {dimension}" if dimension else ""
        return f"the vector has {len(vector)} dimensions{wanted}"
    if not np.isfinite(vector).all():
        return "the vector is not finite"
    return vector


def _tokens(body: Any, texts: Sequence[str]) -> int | None:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    most = sum(_TOKENS_A_BYTE * len(text.encode()) + _TOKENS_OF_A_PROMPT for text in texts)
    for name in ("total_tokens", "prompt_tokens"):
        tokens = usage.get(name)
        if type(tokens) is int and 0 < tokens <= most:
            return tokens
    return None
