"""`embeddings-pipeline plan`: what the next run would do and cost."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from embeddings_pipeline.cli.session import chosen, print_json, session
from embeddings_pipeline.sync.plan import Plan
from embeddings_pipeline.sync.plan import plan as plan_of


def plan(
    entities: Annotated[list[str] | None, typer.Argument(help="All where none is named.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what the next run would do, why, and what it would cost. Writes nothing."""
    with session() as engine:
        plans = [
            plan_of(engine.staging, engine.vectors, engine.on(entity), engine.encoders)
            for entity in chosen(engine, entities or [])
        ]
    if as_json:
        print_json({"entities": plans})
        return
    console = Console()
    console.print(_table(plans))
    for planned in plans:
        for remark in _remarks(planned):
            console.print(f"{planned.entity}: {remark}", highlight=False)


def _table(plans: list[Plan]) -> Table:
    table = Table(box=None)
    table.add_column("entity")
    for heading in ("new", "changed", "deleted", "moved", "unchanged"):
        table.add_column(heading, justify="right")
    for heading in ("reuse", "encode", "tokens", "seconds", "USD"):
        table.add_column(heading, justify="right")
    for planned in plans:
        known = [s.seconds for s in planned.sets if s.encode]
        seconds = sum(s for s in known if s is not None)
        about = "~" if planned.tokens_estimated else ""
        table.add_row(
            planned.entity,
            *(
                f"{rows:,}"
                for rows in (
                    planned.new,
                    planned.changed,
                    planned.deleted,
                    planned.moved_partition,
                    planned.unchanged,
                )
            ),
            f"{sum(s.reusable for s in planned.sets):,}",
            f"{sum(s.encode for s in planned.sets):,}",
            f"{about}{sum(s.tokens for s in planned.sets):,}",
            "unknown" if None in known else f"{seconds:,.1f}",
            f"{planned.cost_usd:.4f}",
        )
    return table


def _remarks(planned: Plan) -> list[str]:
    remarks = [
        f"set {s.number or 'new'} of {s.model}: {s.encode:,} texts to encode"
        for s in planned.sets
        if len(planned.sets) > 1
    ]
    reasons = [f"{share:.0%} {reason}" for reason, share in planned.why.items() if share]
    if reasons:
        remarks.append("because of " + ", ".join(reasons))
    if planned.deletes_refused:
        remarks.append("the deletes are more than max_delete_share: needs --allow-deletes")
    return remarks
