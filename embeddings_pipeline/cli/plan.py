"""`embeddings-pipeline plan`: what the next run would do and cost."""

from __future__ import annotations

from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json, print_table, say
from embeddings_pipeline.cli.selection import AsJson, session
from embeddings_pipeline.pipeline import Results
from embeddings_pipeline.sync.plan import Plan, SetPlan

_COLUMNS = (
    *("entity", "new", "changed", "deleted", "moved", "unchanged"),
    *("reuse", "encode", "tokens", "seconds", "USD"),
)


def plan(
    entities: Annotated[list[str] | None, typer.Argument(help="All where none is named.")] = None,
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
    """Print plans, as a table for a person or as a document for a program; and that they cost more
    than they may, where they do."""
    cost = sum(planned.cost_usd for planned in plans)
    if max_cost_usd is not None and cost > max_cost_usd:
        say(
            f"this costs ${cost:.4f}, more than --max-cost or EMBEDDING_MAX_COST_USD lets it"
            f" (${max_cost_usd:.4f}): the run stops before it is done"
        )
    if as_json:
        print_json({"entities": plans, "failed": plans.failures.told()})
        return
    if not plans:
        return
    print_table(_COLUMNS, [*map(_row, plans)])
    for planned in plans:
        for remark in _remarks(planned):
            typer.echo(f"{planned.entity}: {remark}")


def _row(planned: Plan) -> tuple[object, ...]:
    row = planned.row()
    about = "~" if planned.tokens_estimated else ""
    shown = {
        "tokens": f"{about}{row['tokens']:,}",
        "seconds": "unknown" if planned.seconds is None else planned.seconds,
        "usd": f"{planned.cost_usd:.4f}",
    }
    return tuple((row | shown)[column.lower()] for column in _COLUMNS)


def _of_set(part: SetPlan) -> str:
    if part.frozen:
        return f"frozen, so that nothing is done to it: {part.frozen}"
    return f"{part.encode:,} texts to encode"


def _remarks(planned: Plan) -> list[str]:
    remarks = [
        f"set {s.number or 'new'} of {s.model}: {_of_set(s)}"
        for s in planned.sets
        if len(planned.sets) > 1
    ]
    reasons = [f"{share:.0%} {reason}" for reason, share in planned.why.items() if share]
    if reasons:
        remarks.append("because of " + ", ".join(reasons))
    if planned.deletes_refused:
        remarks.append("the deletes are more than max_delete_share: needs --allow-deletes")
    return remarks
