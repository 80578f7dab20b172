"""`embeddings-pipeline run`: staging, vectors and marts brought up to date, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any
from uuid import uuid4

import psycopg
import typer

from embeddings_pipeline.cli import asked, output, plan
from embeddings_pipeline.cli.jobs import Jobs, Options, opened
from embeddings_pipeline.cli.session import session
from embeddings_pipeline.errors import EmbeddingsError, Failures, Interrupted
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.progress import of_counts
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.status import EntityStatus, counts_of_run, status


@dataclass(frozen=True)
class Outcome:
    """What a run of one entity did, by the ledger, and how far the entity is now."""

    counts: dict[str, Any]
    status: EntityStatus
    warnings: list[str]


def run(
    entities: Annotated[list[str] | None, typer.Argument(help="Entities to run.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entity, and the marts.")] = False,
    dbt: Annotated[bool, typer.Option("--dbt/--no-dbt", help="Build the dbt models, too.")] = True,
    allow_deletes: Annotated[
        bool, typer.Option(help="Delete rows even beyond max_delete_share.")
    ] = False,
    partitions: Annotated[
        str | None, typer.Option(help="Only these partitions: a key, or FIRST..LAST.")
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Encode also what is current; read images again.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The most texts to encode.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Stop before it costs more US dollars.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts a batch, instead of EMBEDDING_BATCH_SIZE.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what this run would do, as `plan`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts as JSON.")] = False,
) -> None:
    """Bring vectors up to date: what Dagster's schedules do, once and now."""
    settings = Settings.load()
    if batch_size:
        settings = settings.model_copy(update={"embedding_batch_size": batch_size})
    if max_cost is None:
        max_cost = settings.embedding_max_cost_usd
    if dry_run:
        with session() as engine:
            chosen, failures = asked.entities_of(engine, entities or [], everything)
            keys = asked.keys_of(chosen, partitions)
            dry = RunOptions(*("", keys), limit=limit, force=force, allow_deletes=allow_deletes)
            plans = plan.plans_of(engine, chosen, dry, failures)
        plan.show(plans, failures, as_json=as_json, max_cost_usd=max_cost)
        failures.raise_any()
        return
    with output.progress() as report, opened(settings, report) as jobs:
        chosen, failures = asked.entities_of(jobs.engine, entities or [], everything)
        keys = asked.keys_of(chosen, partitions)
        options = Options(keys, limit, max_cost, force, allow_deletes)
        names = [entity.name for entity in chosen]
        outcomes = run_all(jobs, names, options, failures, dbt=dbt, marts=dbt and everything)
    if as_json:
        documents = [{"entity": o.status.entity, **o.counts} for o in outcomes]
        one = len(entities or []) == 1 and documents
        whole = {"entities": documents, "failed": failures.told()}
        output.print_json(documents[0] if one else whole)
    else:
        print_outcomes(outcomes)
    failures.raise_any()


def run_all(
    jobs: Jobs,
    names: Sequence[str],
    options: Options,
    failures: Failures,
    *,
    dbt: bool,
    marts: bool,
    seeds: bool = False,
) -> list[Outcome]:
    """Staging, each entity, marts; adds to the failures. An entity that fails does not keep others
    from running, but one that is interrupted does."""
    if dbt and names:
        output.say("building staging models")
        for name, reason in jobs.staging(names, seeds=seeds).items():
            failures[name] = EmbeddingsError(reason)
    outcomes: list[Outcome] = []
    for name in names:
        if name not in failures:
            run_id = str(uuid4())
            try:
                with failures.of(name):
                    warnings = jobs.entity(name, options, run_id)
                    outcomes.append(_outcome(jobs, name, run_id, warnings))
                # what failed has cost something, too
                options = _spent(options, _counts(jobs, name, run_id))
            except Interrupted as error:
                # what was done is told, and nothing else begun
                if _counts(jobs, name, run_id):
                    outcomes.append(_outcome(jobs, name, run_id, []))
                failures[name] = error
                return outcomes
            except (EmbeddingsError, psycopg.Error) as error:
                # what it cost cannot be read: the database is gone, for all of them
                failures.setdefault(name, error)
                return outcomes
    if marts:
        output.say("building marts")
        with failures.of("marts"):
            jobs.marts()
    return outcomes


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """One line for each entity, and what its checks warn of."""
    if not outcomes:
        return
    columns = (
        *("entity", "rows", "chunks", "encoded", "reused"),
        *("coverage", "tokens/s", "seconds"),
    )
    rows = [
        (
            o.status.entity,
            *(o.status.rows, o.status.chunks),
            *(int(o.counts[name]) for name in ("encoded", "reused")),
            output.percent(o.status.coverage),
            o.counts["tokens"] / o.counts["encode_seconds"] if o.counts["encode_seconds"] else None,
            float(o.counts["seconds"]),
        )
        for o in outcomes
    ]
    output.print_table(columns, rows)
    for outcome in outcomes:
        if outcome.counts.get("pending"):
            output.say(f"{outcome.status.entity}: {_processed(outcome.counts)}")
            output.say(f"{outcome.status.entity}: {of_counts(outcome.counts)}")
        for warning in outcome.warnings:
            output.say(f"{outcome.status.entity}: {warning}")


def _processed(counts: Mapping[str, Any]) -> str:
    """What became of the chunks that had no vector of their text."""
    done = counts["encoded"] + counts["reused"] + counts["quarantined"]
    # a row that could not be rendered is quarantined without ever having been pending
    done = min(done, counts["pending"])
    each = f", {1000 * counts['seconds'] / done:,.1f} ms each" if done else ""
    return (
        f"{done:,} of {counts['pending']:,} chunks processed: {counts['encoded']:,} encoded,"
        f" {counts['reused']:,} reused, {counts['quarantined']:,} quarantined{each}"
    )


def _outcome(jobs: Jobs, name: str, run_id: str, warnings: list[str]) -> Outcome:
    engine = jobs.engine
    now = status(engine.vectors, engine.schema, engine.entity(name))
    return Outcome(_counts(jobs, name, run_id), now, warnings)


def _counts(jobs: Jobs, name: str, run_id: str) -> dict[str, Any]:
    engine = jobs.engine
    return counts_of_run(engine.vectors, engine.schema, engine.entity(name), run_id)


def _spent(options: Options, counts: Mapping[str, Any]) -> Options:
    """What is left of the purse for the entities that come after."""
    if options.max_cost_usd is None:
        return options
    left = max(0.0, options.max_cost_usd - float(counts.get("cost_usd", 0)))
    return replace(options, max_cost_usd=left)
