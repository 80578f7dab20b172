"""What the texts that are to be encoded cost with a model, told from a sample of them.

Texts are stored with their tokens by one tokenizer for all models. How many a model reads itself,
and how many a cache spares it, is counted here: of all texts where they are few, else of some at
random, whose share is taken for that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.token_counts import FIXED
from embeddings_pipeline.store.to_encode import Sampled
from embeddings_pipeline.store.work import Work

SAMPLE = 2_000
_SAMPLE_CHARACTERS = 8 << 20


@dataclass(frozen=True)
class TokenCosts:
    """Tokens that the model will read; texts that a cache knows, which cost none. `estimated` says
    that not every text was counted as the model counts."""

    tokens: int
    cached: int = 0
    estimated: bool = False


def token_costs(
    work: Work,
    encoder: CachedEncoder,
    sample: Callable[[], Sequence[Sampled]],
    *,
    max_tokens: int,
    remembers: bool,
) -> TokenCosts:
    """What this work costs with an encoder that reads `max_tokens` of a text; whether it
    `remembers` texts of earlier runs. The `sample` is of `SAMPLE` texts, or of all."""
    count = encoder.token_count
    # images have no tokens
    if not work.tokens or (count == FIXED and not remembers):
        return TokenCosts(work.tokens)
    chosen = _bounded(sample())
    parts = {
        text: min(tokens, max_tokens)
        for one in chosen
        for text, tokens in zip(one.texts, one.tokens, strict=True)
    }
    spared = encoder.remembered([*parts]) if remembers else set()
    read = [min(n, max_tokens) for n in count.of([text for text in parts if text not in spared])]
    share = sum(read) / sum(parts.values()) if parts else 1.0
    # parts are counted once a window by `work`, unless they are remembered
    whole = len(chosen) == work.encode and (remembers or all(len(o.texts) == 1 for o in chosen))
    return TokenCosts(
        round(work.tokens * share),
        round(len(spared) * work.encode / len(chosen)) if chosen else 0,
        estimated=bool(read) and not (whole and count.exact),
    )


def usd(encoder: CachedEncoder, texts: Sequence[str], usd_per_token: float) -> float:
    """US dollars for the tokens that the encoder's model reads of these texts."""
    if not usd_per_token:
        return 0.0
    longest = encoder.identity.max_tokens
    return usd_per_token * sum(min(tokens, longest) for tokens in encoder.token_count.of(texts))


def _bounded(sample: Sequence[Sampled]) -> list[Sampled]:
    chosen, size = [], 0
    for one in sample:
        if size > _SAMPLE_CHARACTERS:
            break
        chosen.append(one)
        size += sum(map(len, one.texts))
    return chosen
