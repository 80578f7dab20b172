"""Notes in the ledger what a run is about to do, beside which its counts will stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embeddings_pipeline.encoders.base import Encoder
from embeddings_pipeline.store import ledger
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import texts
from embeddings_pipeline.store.vectors.pending import Selected
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.token_costs import SAMPLE, Sampled, token_costs


def record_plan(
    tables: EntityTables,
    model: str,
    encoder: Encoder,
    selected: Selected,
    options: RunOptions,
    *,
    usd_per_token: float,
) -> None:
    """Sum up what was selected, and note it for this run."""

    def sample() -> Sequence[Sampled]:
        chosen = np.argsort(selected.hashes, kind="stable")[:SAMPLE]
        tokens = {bytes(selected.hashes[n]): int(selected.tokens[n]) for n in chosen}
        return [Sampled(text, tokens[h]) for h, text in texts.read(tables, [*tokens])]

    longest = encoder.identity.max_tokens
    read = int(np.minimum(selected.tokens, longest).sum()) if len(selected) else 0
    costs = token_costs(encoder, len(selected), read, sample)
    rate = ledger.throughput(tables.connection, tables.on, model)
    ledger.record_plan(
        tables.connection,
        tables.on,
        options.run_id,
        {
            "encode": len(selected),
            "tokens": costs.tokens,
            "seconds": costs.tokens / rate if rate else None,
            "cost_usd": costs.tokens * usd_per_token,
        },
    )
