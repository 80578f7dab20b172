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
# what OpenAI and vLLM, and what text-embeddings-inference say of a text that is too long
_TOO_LONG = re.compile(
    r"maximum context length is (?P<limit>\d+) tokens.*?(?:requested (?P<asked>\d+) tokens|$)"
    r"|must have less than (?P<less>\d+) tokens.*?(?:Given: (?P<given>\d+)|$)",
    re.DOTALL,
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
    told = _TOO_LONG.search(refusal)
    if told is None or len(text) < 2:
        return None
    limit = int(told["limit"] or told["less"])
    asked = int(told["asked"] or told["given"] or 0)
    share = _MARGIN * limit / asked if asked > limit else 0.5
    return text[: max(1, int(len(text) * share))]
