"""The tokens that a model will read of texts, and what they cost.

Texts are stored with an approximate number of tokens. The model's own count is taken here: of all
texts where they are few, or of a random sample, from which the total is extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embeddings_pipeline.encoders.encoder import Encoder
from embeddings_pipeline.store import run_ledger
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import texts as stored_texts
from embeddings_pipeline.store.vectors.pending import Selected
from embeddings_pipeline.sync.run_options import RunOptions

# texts and characters of which a model's own count of tokens is taken
SAMPLE, _SAMPLE_CHARACTERS = 2_000, 8 << 20


class SampledText(NamedTuple):
    """A text to encode, and its tokens as they were measured when it was rendered."""

    text: str
    tokens: int


@dataclass(frozen=True)
class TokenCosts:
    """Tokens that the model will read. `estimated` is whether the model's own count was not taken
    of every text."""

    tokens: int
    estimated: bool = False


def token_costs(
    encoder: Encoder, texts: int, tokens: int, sample: Callable[[], Sequence[SampledText]]
) -> TokenCosts:
    """The tokens that the model reads of `texts` texts. `tokens` is their measured number, up to
    the model's longest input. `sample` returns `SAMPLE` of the texts, or all."""
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


def _bounded(sample: Sequence[SampledText]) -> list[SampledText]:
    chosen, size = [], 0
    for one in sample:
        if size > _SAMPLE_CHARACTERS:
            break
        chosen.append(one)
        size += len(one.text)
    return chosen


def record_plan(
    tables: EntityTables,
    model: str,
    encoder: Encoder,
    selected: Selected,
    options: RunOptions,
    *,
    usd_per_token: float,
) -> None:
    """Record in the ledger what this run is about to encode, and its cost."""

    def sample() -> Sequence[SampledText]:
        chosen = np.argsort(selected.hashes, kind="stable")[:SAMPLE]
        tokens = {bytes(selected.hashes[n]): int(selected.tokens[n]) for n in chosen}
        return [SampledText(text, tokens[h]) for h, text in stored_texts.read(tables, [*tokens])]

    longest = encoder.identity.max_tokens
    read = int(np.minimum(selected.tokens, longest).sum()) if len(selected) else 0
    costs = token_costs(encoder, len(selected), read, sample)
    rate = run_ledger.throughput(tables, model)
    run_ledger.record_plan(
        tables,
        options.run_id,
        {
            "encode": len(selected),
            "tokens": costs.tokens,
            "seconds": costs.tokens / rate if rate else None,
            "cost_usd": costs.tokens * usd_per_token,
        },
    )
