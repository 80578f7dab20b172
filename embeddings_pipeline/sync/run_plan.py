"""Notes in the ledger what a run is about to do to a set, beside which its counts will stand."""

from __future__ import annotations

from psycopg import Connection

from embeddings_pipeline.store import ledger, planning
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.to_encode import Terms, sampled
from embeddings_pipeline.store.work import found_work
from embeddings_pipeline.sync.filling import Filling
from embeddings_pipeline.sync.token_costs import SAMPLE, token_costs


def record_plan(connection: Connection[Row], filling: Filling) -> None:
    """Sum up what `find_pending` found, and note it for this run."""
    terms = Terms(
        filling.vector_set.max_tokens,
        filling.origins,
        limit=filling.request.limit,
        begun=filling.request.begun,
        renew=filling.renew,
        remembered=filling.usd_per_token > 0,
    )
    work = found_work(connection, filling.on, terms)
    costs = token_costs(
        work,
        filling.encoder,
        lambda: sampled(connection, filling.on, SAMPLE),
        max_tokens=terms.max_tokens,
        remembers=filling.encoder.remembers_documents,
    )
    rate = planning.throughput(connection, filling.on, filling.vector_set.model)
    ledger.record_plan(
        connection,
        filling.on,
        filling.request.run_id,
        {
            "rows": work.rows,
            "encode": work.encode,
            "tokens": costs.tokens,
            "seconds": costs.tokens / rate if rate else None,
            "cost_usd": costs.tokens * filling.usd_per_token,
        },
    )
