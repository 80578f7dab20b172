"""`embeddings-pipeline status`: how far each entity is."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import psycopg
import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.cache import described
from embeddings_pipeline.engine import Engine, opened
from embeddings_pipeline.errors import Failures, Unavailable
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import definitions
from embeddings_pipeline.store.ledger import Cost
from embeddings_pipeline.sync.progress import usd
from embeddings_pipeline.sync.status import EntityStatus, nothing_of
from embeddings_pipeline.sync.status import status as status_of


def status(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Show rows, vectors, coverage, what is pending and what it cost, of each entity."""
    settings = Settings.load()
    prepared_manifest(settings)
    with opened(settings) as engine:
        found, failures = _of_entities(engine)
        cache = engine.encoders.cache.stats()
    if as_json:
        output.print_json({"entities": [asdict(entity) for entity in found], "cache": cache})
    else:
        output.print_table(
            (
                "entity",
                *(("declaration",) if failures else ()),
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
            [_row(entity, declaration=bool(failures)) for entity in found],
        )
        if any(entity.cost != Cost() for entity in found):
            _print_costs({entity.entity: entity.cost for entity in found})
        typer.echo(described(cache))
    failures.raise_any()


def _of_entities(engine: Engine) -> tuple[list[EntityStatus], Failures]:
    """What is stored of each entity, and what is wrong with the declarations of some."""
    with engine.vectors.connection() as connection:
        # of one whose declaration is wrong by now
        stored, _ = definitions.entities(connection, engine.schema)
    staged = _can_be_read(engine)
    found, failures = [], Failures()
    for name in engine.declared.models:
        entity = engine.entities.get(name) or stored.get(name)
        now = nothing_of(name)
        with failures.of(name):
            if entity:
                now = status_of(engine.vectors, engine.schema, entity)
            declared = engine.entity(name)
            if staged:
                engine.on(declared)
        found.append(replace(now, problem=failures.told().get(name)))
    return found, failures


def _can_be_read(engine: Engine) -> bool:
    """Whether the staging models can be looked at; what is stored is told in any case."""
    try:
        with engine.staging.connection():
            return True
    except (Unavailable, psycopg.OperationalError) as error:
        output.say(f"the declarations are not checked against the staging models: {error}")
        return False


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
