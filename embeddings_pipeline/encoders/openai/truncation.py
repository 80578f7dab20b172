"""How many tokens a remote model will count in a text, as near as can be told from here.

The provider's own tokenizer is not used: tiktoken downloads its vocabulary, which a machine without
a network cannot. The pipeline's own tokenizer stands in for it; it takes a long run of letters for
a single unknown word, so a text counts at least a token for four bytes, as English does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from embeddings_pipeline.entities.chunking import count_tokens

_BYTES_A_TOKEN = 4
# what OpenAI, vLLM, Ollama, llama.cpp, text-embeddings-inference and others say of a text that is
# too long; each speaks of one of the former and of one of the latter
_OF_LENGTH = re.compile(r"length|context|tokens?\b|too long|batch size", re.IGNORECASE)
_BEYOND = re.compile(r"exceed|longer|larger|too (?:long|large)|maximum|less than", re.IGNORECASE)
# what llama.cpp, and others that run models as it does, say of it as if the fault were their own
_AS_FAULT = re.compile(r"too large to process|(?:input|context) length exceeds", re.IGNORECASE)
_LIMIT = re.compile(
    r"(?:max(?:imum)?|less than|available|limit|batch size)\b\D{0,40}?(\d+)", re.IGNORECASE
)
_ASKED = re.compile(
    r"(?:requested|passed|given|has|length|prompt|request|input)\W{1,3}(\d+)", re.IGNORECASE
)
# the provider's count of what is left may be a little more than in proportion
_MARGIN = 0.95


def estimate(texts: Sequence[str]) -> list[int]:
    """About how many tokens each text has; rather too many than too few."""
    return [
        max(counted, math.ceil(len(text.encode()) / _BYTES_A_TOKEN))
        for text, counted in zip(texts, count_tokens(texts), strict=True)
    ]


def cut(text: str, tokens: int, limit: int) -> tuple[str, int]:
    """The beginning of a text of so many tokens that has at most `limit`, and its tokens."""
    while tokens > limit:
        text = text[: min(int(len(text) * limit / tokens), len(text) - 1)]
        (tokens,) = estimate([text])
    return text, tokens


def cut_as_told(text: str, refusal: str) -> str | None:
    """The beginning of a text that a provider found too long, or None where it complains of
    something else."""
    if len(text) < 2 or not is_of_length(refusal):
        return None
    limit, asked = _number(_LIMIT, refusal), _number(_ASKED, refusal)
    share = _MARGIN * limit / asked if 0 < limit < asked else 0.5
    return text[: max(1, int(len(text) * share))]


def is_of_length(refusal: str) -> bool:
    """Whether a provider complains of a text's length."""
    return bool(_OF_LENGTH.search(refusal) and _BEYOND.search(refusal))


def is_fault_of_length(said: str) -> bool:
    """Whether a text's length is what a provider fails on. Much else is exceeded where a server
    fails, as deadlines and quotas, which pass by themselves."""
    return bool(_AS_FAULT.search(said))


def _number(pattern: re.Pattern[str], said: str) -> int:
    found = pattern.search(said)
    # more digits than these are no number of tokens
    return int(found[1]) if found and len(found[1]) < 10 else 0
