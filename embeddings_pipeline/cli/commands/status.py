"""`embeddings-pipeline status`: the state of each entity."""

from __future__ import annotations

from dataclasses import asdict

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.commands.cache import redis_summary
from embeddings_pipeline.cli.selection import AsJson, session
from embeddings_pipeline.store.run_ledger import Cost
from embeddings_pipeline.sync.progress import usd
from embeddings_pipeline.sync.status import EntityStatus


def status(as_json: AsJson = False) -> None:
    """Show rows, vectors, coverage, pending chunks and cost of each entity."""
    with session() as pipeline:
        found = pipeline.status()
        for remark in found.remarks:
            output.print_message(remark)
        cache = pipeline.encoders.cache.stats()
    if as_json:
        output.print_json({"entities": [asdict(entity) for entity in found], "cache": cache})
    else:
        output.print_table(
            (
                "entity",
                *(("declaration",) if found.failures else ()),
                "rows",
                "chunks",
                "vectors",
                "coverage",
                "pending",
                "waits (s)",
                "live set",
                "index",
                "recall@10",
            ),
            [_row(entity, declaration=bool(found.failures)) for entity in found],
        )
        for entity in found:
            for reason in entity.waiting:
                output.print_line(f"{entity.entity}: {reason}")
        if any(entity.cost != Cost() for entity in found):
            _print_costs({entity.entity: entity.cost for entity in found})
        output.print_line(redis_summary(cache))
    found.failures.raise_any()


def _print_costs(costs: dict[str, Cost]) -> None:
    costs = {**costs, "total": sum(costs.values(), Cost())}
    output.print_table(
        ("entity", "last run", "all runs", "saved by reuse and cache"),
        [
            (name, usd(cost.last_run_usd), usd(cost.total_usd), usd(cost.saved_usd))
            for name, cost in costs.items()
        ],
        title="US dollars",
    )


def _row(entity: EntityStatus, *, declaration: bool) -> tuple[object, ...]:
    live = entity.live_set
    recall = entity.index.recall_at_10
    return (
        entity.entity,
        *(("wrong" if entity.problem else "right",) if declaration else ()),
        entity.rows,
        entity.chunks,
        entity.vectors,
        output.percent(entity.coverage),
        entity.pending,
        entity.oldest_pending_seconds,
        f"{live.number} {live.model.rpartition('/')[2]} {live.dimension}" if live else None,
        entity.index.type,
        None if recall is None else f"{recall:.3f}",
    )
