"""What texts that are to be encoded cost with a model, told from a sample of them.

Texts are stored with about as many tokens as they have. How many a model reads itself is counted
here: of all texts where they are few, else of some at random, whose share is taken for that of
all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from embeddings_pipeline.encoders.base import Encoder

SAMPLE = 2_000
_SAMPLE_CHARACTERS = 8 << 20


class Sampled(NamedTuple):
    """A text that a model is given, and its tokens as they were measured when it was rendered."""

    text: str
    tokens: int


@dataclass(frozen=True)
class TokenCosts:
    """Tokens that the model will read. `estimated` says that not every text was counted as the
    model counts."""

    tokens: int
    estimated: bool = False


def token_costs(
    encoder: Encoder, texts: int, tokens: int, sample: Callable[[], Sequence[Sampled]]
) -> TokenCosts:
    """What so many texts cost, which were measured to have so many tokens up to what the model
    reads. The `sample` is of `SAMPLE` texts, or of all."""
    count = encoder.token_count
    # images have no tokens
    if not tokens:
        return TokenCosts(tokens)
    chosen = _bounded(sample())
    longest = encoder.identity.max_tokens
    counted = sum(min(one.tokens, longest) for one in chosen)
    read = sum(min(n, longest) for n in count.of([one.text for one in chosen]))
    return TokenCosts(
        round(tokens * read / counted) if counted else tokens,
        estimated=not (len(chosen) == texts and count.exact),
    )


def dollars(encoder: Encoder, texts: Sequence[str], usd_per_token: float) -> list[float]:
    """US dollars for the tokens that the encoder's model reads of each text."""
    if not usd_per_token:
        return [0.0] * len(texts)
    longest = encoder.identity.max_tokens
    return [usd_per_token * min(n, longest) for n in encoder.token_count.of(texts)]


def _bounded(sample: Sequence[Sampled]) -> list[Sampled]:
    chosen, size = [], 0
    for one in sample:
        if size > _SAMPLE_CHARACTERS:
            break
        chosen.append(one)
        size += len(one.text)
    return chosen
