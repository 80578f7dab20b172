"""Estimates how many tokens a remote model counts in a text, and cuts texts that are too long.

The provider's own tokenizer is not used: tiktoken downloads its vocabulary and so needs a network.
The pipeline's own tokenizer stands in for it. That tokenizer counts a long run of letters as one
unknown word, so a text counts at least one token for four bytes, as English has on average.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from embeddings_pipeline.entities.chunking import count_tokens

_BYTES_A_TOKEN = 4
# a message of OpenAI, vLLM, Ollama, llama.cpp or text-embeddings-inference about a text that is too
# long matches both patterns
_LENGTH_WORDS = re.compile(r"length|context|tokens?\b|too long|batch size", re.IGNORECASE)
_EXCEEDED_WORDS = re.compile(
    r"exceed|longer|larger|too (?:long|large)|maximum|less than", re.IGNORECASE
)
# llama.cpp and servers built on it report a text that is too long as a server error
_SERVER_LENGTH_ERROR = re.compile(
    r"too large to process|(?:input|context) length exceeds", re.IGNORECASE
)
_LIMIT = re.compile(
    r"(?:max(?:imum)?|less than|available|limit|batch size)\b\D{0,40}?(\d+)", re.IGNORECASE
)
_SENT = re.compile(
    r"(?:requested|passed|given|has|length|prompt|request|input)\W{1,3}(\d+)", re.IGNORECASE
)
# the remaining text may have slightly more tokens than its share of the characters
_MARGIN = 0.95


def estimate(texts: Sequence[str]) -> list[int]:
    """Return an estimate of the tokens of each text, rather too high than too low."""
    return [
        max(counted, math.ceil(len(text.encode()) / _BYTES_A_TOKEN))
        for text, counted in zip(texts, count_tokens(texts), strict=True)
    ]


def truncate(text: str, tokens: int, limit: int) -> tuple[str, int]:
    """Cut a text of `tokens` tokens to at most `limit`. Returns the text and its tokens."""
    while tokens > limit:
        text = text[: min(int(len(text) * limit / tokens), len(text) - 1)]
        (tokens,) = estimate([text])
    return text, tokens


def truncate_to_reported_limit(text: str, refusal: str) -> str | None:
    """Return the beginning of a text that a provider rejected as too long.

    Returns None where the provider's message is about something else.
    """
    too_long = _LENGTH_WORDS.search(refusal) and _EXCEEDED_WORDS.search(refusal)
    if len(text) < 2 or not too_long:
        return None
    limit, sent = _number(_LIMIT, refusal), _number(_SENT, refusal)
    share = _MARGIN * limit / sent if 0 < limit < sent else 0.5
    return text[: max(1, int(len(text) * share))]


def is_server_length_error(message: str) -> bool:
    """Whether a server error says that a text is too long.

    Stricter than for other refusals: server errors also speak of exceeded deadlines and quotas,
    which are transient.
    """
    return bool(_SERVER_LENGTH_ERROR.search(message))


def _number(pattern: re.Pattern[str], message: str) -> int:
    found = pattern.search(message)
    # a number of ten digits or more is not a number of tokens
    return int(found[1]) if found and len(found[1]) < 10 else 0
