"""`embeddings-pipeline run`: brings staging models, vectors and marts up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from embeddings_pipeline import stopping
from embeddings_pipeline.cli import dagster_instance, output, selection
from embeddings_pipeline.cli.commands import plan
from embeddings_pipeline.cli.dbt_models import build_marts, build_staging, left_as_built
from embeddings_pipeline.cli.selection import AsJson, BuildsDbt, session
from embeddings_pipeline.cli.terminal import log_as_json
from embeddings_pipeline.dbt_command import Build, parse
from embeddings_pipeline.errors import Failures, Interrupted
from embeddings_pipeline.pipeline import EntityRun, Pipeline, Results
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.progress import Report, of_counts

if TYPE_CHECKING:
    from embeddings_pipeline.cli.dagster_jobs import Jobs


def run(
    entities: Annotated[
        list[str] | None, typer.Argument(metavar="ENTITY", help="The entities to run.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entity, and the marts.")] = False,
    dbt: BuildsDbt = None,
    allow_deletes: Annotated[
        bool, typer.Option(help="Delete more than max_delete_share of the rows.")
    ] = False,
    partitions: Annotated[
        str | None, typer.Option(help="Only these partitions: a key, or FIRST..LAST.")
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Encode current texts again; read images again.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most texts to encode, in all entities together.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="The most US dollars to spend, in all.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts in a batch, in place of EMBEDDING_BATCH_SIZE.")
    ] = None,
    dagster: Annotated[
        bool, typer.Option("--dagster", help="Execute Dagster jobs, as the schedules do.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what this run would do, as `plan` does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring vectors up to date, once and now. Builds the dbt models, encodes changed texts, builds
    the indexes, publishes and checks. Reports to Dagster where there is an instance."""
    settings = Settings.load()
    if settings.log_format == "json":
        log_as_json()
    if batch_size:
        settings = settings.model_copy(update={"embedding_batch_size": batch_size})
    names = entities or []
    builds = selection.builds_dbt(settings, dbt)
    options: dict[str, Any] = {
        "partitions": selection.partition_range(partitions),
        "limit": limit,
        "force": force,
        "allow_deletes": allow_deletes,
    }
    if dry_run:
        # a dry run builds nothing, but reads what dbt would build
        manifest = parse(settings) if builds else None
        with session(settings, manifest) as pipeline:
            selection.require_entities(pipeline, names, everything)
            planned = plan.planned(pipeline, names, options)
        plan.show(planned, as_json=as_json, max_cost_usd=settings.cost_limit(max_cost))
        return
    options["max_cost_usd"] = max_cost
    with output.progress() as report, Runner(settings, report) as runner:
        selection.require_entities(runner.pipeline, names, everything)
        runs = runner.run(names, options, dbt=builds, marts=builds and everything, dagster=dagster)
    if as_json:
        documents = [{"entity": run.entity.name, **run.counts} for run in runs]
        document = {"entities": documents, "failed": runs.failures.messages()}
        output.print_json(documents[0] if len(names) == 1 and documents else document)
    else:
        print_runs(runs)
    runs.failures.raise_any()


class Runner:
    """Runs entities with their staging models and marts, and reports the run to Dagster. Use it in
    a `with`."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._settings = settings
        self._report = report
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline over the manifest that is there, or that dbt wrote for this run."""
        return self._exits.enter_context(session(self._settings))

    def run(
        self,
        names: Sequence[str],
        options: Mapping[str, Any],
        *,
        dbt: bool,
        marts: bool,
        dagster: bool = False,
        seeds: bool = False,
    ) -> Results[EntityRun]:
        """Run staging models, entities and marts. `options` are the arguments of `Pipeline.run`.
        Where an entity fails, the others run."""
        failures = Failures()
        builds: list[Build | None] = []
        if dbt:
            failures, builds = self._build_staging(names, seeds=seeds)
        chosen, wrong = self.pipeline.chosen(names)
        failures.update(wrong)
        self.pipeline.count_failures(failures)
        names = [entity.name for entity in chosen if entity.name not in failures]
        runs: Results[EntityRun] = Results()
        if names and dagster:
            runs = self._jobs.run(names, options)
        elif names:
            with stopping.on_signals() as stopped:
                runs = self.pipeline.run(
                    *names, **options, report=self._report, stopped=stopped, raise_errors=False
                )
        runs.failures.update(failures)
        interrupted = any(isinstance(error, Interrupted) for error in runs.failures.values())
        if marts and not interrupted:
            output.print_message("building marts")
            with runs.failures.of("marts"):
                builds.append(
                    build_marts(self._settings, self.pipeline.staging, self.pipeline.manifest)
                )
        if dagster_instance.is_configured(self._settings):
            self._jobs.report([] if dagster else runs, [build for build in builds if build])
        return runs

    def _build_staging(
        self, names: Sequence[str], *, seeds: bool
    ) -> tuple[Failures, list[Build | None]]:
        """Build the staging models, and go on with the manifest that dbt wrote."""
        output.print_message("building staging models")
        before = self.pipeline
        built = build_staging(self._settings, before.staging, before.manifest, names, seeds=seeds)
        self.pipeline = self._exits.enter_context(Pipeline.open(self._settings, built.manifest))
        for warning in self.pipeline.declared.warnings:
            if warning not in before.declared.warnings:
                output.print_message(f"warning: {warning}")
        chosen, _ = self.pipeline.chosen(names)
        for name, remark in left_as_built(built.manifest, [e.name for e in chosen]).items():
            output.print_message(f"{name}: {remark}")
        return built.failures, [built.build]

    @cached_property
    def _jobs(self) -> Jobs:
        from embeddings_pipeline.cli import dagster_jobs

        return self._exits.enter_context(dagster_jobs.open_jobs(self.pipeline, self._report))


def print_runs(runs: Sequence[EntityRun]) -> None:
    """Print one line for each entity, why a new set is not published, and what checks warn of."""
    if not runs:
        return
    columns = (
        *("entity", "rows", "chunks", "encoded", "reused"),
        *("coverage", "tokens/s", "seconds"),
    )
    output.print_table(columns, [*map(_row, runs)])
    for run in runs:
        if run.counts.get("pending"):
            output.print_message(f"{run.entity.name}: {_processed(run.counts)}")
            output.print_message(f"{run.entity.name}: {of_counts(run.counts)}")
        if run.published and run.published.reasons:
            output.print_message(f"{run.entity.name}: {run.published.summary}")
        for warning in run.warnings:
            output.print_message(f"{run.entity.name}: {warning}")


def _row(run: EntityRun) -> tuple[object, ...]:
    row = run.row()
    seconds = row["encode_seconds"]
    return (
        *(row[name] for name in ("entity", "rows", "chunks")),
        *(int(row[name]) for name in ("encoded", "reused")),
        output.percent(row["coverage"]),
        row["tokens"] / seconds if seconds else None,
        float(row["seconds"]),
    )


def _processed(counts: Mapping[str, Any]) -> str:
    """The counts of the chunks that had no vector of their text."""
    done = counts["encoded"] + counts["reused"] + counts["quarantined"]
    # a row that could not be rendered is quarantined without ever having been pending
    done = min(done, counts["pending"])
    each = f", {1000 * counts['seconds'] / done:,.1f} ms each" if done else ""
    return (
        f"{done:,} of {counts['pending']:,} chunks processed: {counts['encoded']:,} encoded,"
        f" {counts['reused']:,} reused, {counts['quarantined']:,} quarantined{each}"
    )
