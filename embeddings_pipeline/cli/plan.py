"""`embeddings-pipeline plan`: what the next run would do and cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from embeddings_pipeline.cli.output import print_json, print_table, say
from embeddings_pipeline.cli.session import AsJson, session
from embeddings_pipeline.engine import Engine
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import Failures
from embeddings_pipeline.sync.plan import Plan, SetPlan, plans
from embeddings_pipeline.sync.run_options import RunOptions


def plan(
    entities: Annotated[list[str] | None, typer.Argument(help="All where none is named.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the next run would do, why, and what it would cost. Writes nothing."""
    with session() as engine:
        chosen, failures = engine.chosen(entities or [])
        planned = plans_of(engine, chosen, RunOptions(run_id=""), failures)
    show(planned, failures, as_json=as_json)
    failures.raise_any()


def plans_of(
    engine: Engine, entities: Iterable[Entity], options: RunOptions, failures: Failures
) -> list[Plan]:
    """The plan of this run for each of the entities; adds why there is none of some."""
    planned, failed = plans(
        *(engine.staging, engine.vectors, entities, engine.on, engine.encoders, options),
        keep=engine.settings.embedding_cache_keep,
    )
    failures.update(failed)
    return planned


def show(
    of_entities: list[Plan],
    failures: Failures,
    *,
    as_json: bool,
    max_cost_usd: float | None = None,
) -> None:
    """Print plans, as a table for a person or as a document for a program; and that they cost more
    than they may, where they do."""
    cost = sum(planned.cost_usd for planned in of_entities)
    if max_cost_usd is not None and cost > max_cost_usd:
        say(
            f"this costs ${cost:.4f}, more than --max-cost or EMBEDDING_MAX_COST_USD lets it"
            f" (${max_cost_usd:.4f}): the run stops before it is done"
        )
    if as_json:
        print_json({"entities": of_entities, "failed": failures.told()})
        return
    if not of_entities:
        return
    columns = ("entity", "new", "changed", "deleted", "moved", "unchanged")
    print_table(
        (*columns, "reuse", "encode", "tokens", "seconds", "USD"), [*map(_row, of_entities)]
    )
    for planned in of_entities:
        for remark in _remarks(planned):
            typer.echo(f"{planned.entity}: {remark}")


def _row(planned: Plan) -> tuple[object, ...]:
    about = "~" if planned.tokens_estimated else ""
    return (
        planned.entity,
        planned.new,
        planned.changed,
        planned.deleted,
        planned.moved_partition,
        planned.unchanged,
        sum(s.reusable for s in planned.sets),
        sum(s.encode for s in planned.sets),
        f"{about}{sum(s.tokens for s in planned.sets):,}",
        "unknown" if planned.seconds is None else planned.seconds,
        f"{planned.cost_usd:.4f}",
    )


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
