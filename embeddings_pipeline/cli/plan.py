"""`embeddings-pipeline plan`: what the next run would do and cost."""

from __future__ import annotations

import typer

from embeddings_pipeline.cli.output import print_json, print_message, print_table
from embeddings_pipeline.cli.selection import AsJson, EntityNames, session
from embeddings_pipeline.pipeline import Results
from embeddings_pipeline.sync.plan import Plan, SetPlan

_COLUMNS = (
    *("entity", "new", "changed", "deleted", "moved", "unchanged"),
    *("reuse", "encode", "tokens", "seconds", "USD"),
)


def plan(
    entities: EntityNames = None,
    as_json: AsJson = False,
) -> None:
    """Say what the next run would do, why, and what it would cost. Writes nothing."""
    with session() as pipeline:
        planned = pipeline.plan(*entities or (), raise_errors=False)
    show(planned, as_json=as_json)
    planned.failures.raise_any()


def show(
    plans: Results[Plan],
    *,
    as_json: bool,
    max_cost_usd: float | None = None,
) -> None:
    """Print plans as a table, or as one JSON document; warn where they exceed the cost limit."""
    cost = sum(planned.cost_usd for planned in plans)
    if max_cost_usd is not None and cost > max_cost_usd:
        print_message(
            f"this costs ${cost:.4f}, more than --max-cost or EMBEDDING_MAX_COST_USD"
            f" (${max_cost_usd:.4f}): the run will stop there"
        )
    if as_json:
        print_json({"entities": plans, "failed": plans.failures.messages()})
        return
    if not plans:
        return
    print_table(_COLUMNS, [*map(_row, plans)])
    for planned in plans:
        for remark in _remarks(planned):
            typer.echo(f"{planned.entity}: {remark}")


def _row(planned: Plan) -> tuple[object, ...]:
    row = planned.row()
    estimate = "~" if planned.tokens_estimated else ""
    shown = {
        "tokens": f"{estimate}{row['tokens']:,}",
        "seconds": "unknown" if planned.seconds is None else planned.seconds,
        "usd": f"{planned.cost_usd:.4f}",
    }
    return tuple((row | shown)[column.lower()] for column in _COLUMNS)


def _set_summary(part: SetPlan) -> str:
    if part.frozen:
        return f"frozen, nothing is encoded for it: {part.frozen}"
    return f"{part.encode:,} texts to encode"


def _remarks(planned: Plan) -> list[str]:
    remarks = [
        f"set {s.number or 'new'} of {s.model}: {_set_summary(s)}"
        for s in planned.sets
        if len(planned.sets) > 1
    ]
    reasons = [f"{share:.0%} {reason}" for reason, share in planned.why.items() if share]
    if reasons:
        remarks.append("because of " + ", ".join(reasons))
    if planned.deletes_refused:
        remarks.append("the deletes exceed max_delete_share: the run needs --allow-deletes")
    return remarks
