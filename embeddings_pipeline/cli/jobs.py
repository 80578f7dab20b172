"""Executes the jobs of Dagster's schedules in this process. Dagster is imported only here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg

from embeddings_pipeline.cli import instance
from embeddings_pipeline.entities.manifest import load_manifest
from embeddings_pipeline.errors import EmbeddingsError, Failures, Interrupted
from embeddings_pipeline.pipeline import EntityRun, Pipeline, Results, manifest_path
from embeddings_pipeline.store.connection import columns_of
from embeddings_pipeline.sync.checks import CheckResult
from embeddings_pipeline.sync.progress import Report
from embeddings_pipeline.sync.run_options import RunOptions

if TYPE_CHECKING:
    import dagster as dg

    from embeddings_pipeline.resources.run_context import RunContext

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Jobs:
    """The jobs over one pipeline: models are loaded once for all entities."""

    def __init__(
        self, pipeline: Pipeline, run_context: RunContext, instance: dg.DagsterInstance
    ) -> None:
        self.pipeline = pipeline
        self._run_context = run_context
        self._instance = instance

    @cached_property
    def _defs(self) -> dg.Definitions:
        from embeddings_pipeline.definitions import definitions

        # a command does not wait for the pool, and killed it must not keep a place in the pool
        return definitions(self.pipeline.settings, self._run_context, pool=None)

    def staging(self, entities: Sequence[str], *, seeds: bool) -> dict[str, str]:
        """Build the entities' staging models with one dbt command; returns why some of them
        failed, by entity.

        Models and seeds that they read are built where they are missing; with `seeds`, all seeds.
        """
        from embeddings_pipeline.assets.dbt_nodes import key_of, read_by

        models = {name: self.pipeline.declared.models[name] for name in entities}
        missing = [
            node
            for node in read_by(
                load_manifest(manifest_path(self.pipeline.settings)), [*models.values()]
            )
            if (seeds and node["resource_type"] == "seed") or not self._exists(node)
        ]
        keys = {name: key_of(node) for name, node in models.items()}
        chosen = {*keys.values(), *map(key_of, missing)}
        result = self._execute("staging", sorted(chosen), raise_on_error=False)
        broken = _broken(result, keys.values())
        return {name: broken[key] for name, key in keys.items() if key in broken}

    def run(self, names: Sequence[str], options: Mapping[str, Any]) -> Results[EntityRun]:
        """Execute the job of each entity, from texts on, one after the other. `options` are the
        arguments of `Pipeline.run`."""
        failures, runs = Failures(), []
        max_cost_usd = self.pipeline.settings.cost_limit(options.get("max_cost_usd"))
        left = RunOptions("", limit=options.get("limit"), max_cost_usd=max_cost_usd)
        for name in names:
            entity = self.pipeline.entity(name)
            keys = self.pipeline.partition_keys([entity], options.get("partitions"))
            run = EntityRun(entity, replace(left, run_id=str(uuid4()), keys=keys))
            try:
                with failures.of(name):
                    self._execute_entity(run, options)
            except Interrupted as error:
                failures[name] = error
            with failures.of(name):
                run.counts = self.pipeline.counts_of(entity, run.run_id)
            if run.counts:
                runs.append(run)
                left = left.less_counts(run.counts)
            if isinstance(failures.get(name), Interrupted | psycopg.Error):
                break
        return Results(runs, failures)

    def _execute_entity(self, run: EntityRun, options: Mapping[str, Any]) -> None:
        import dagster as dg

        from embeddings_pipeline.assets import automation, partitions
        from embeddings_pipeline.assets.entity import ASSETS

        name = run.entity.name
        keys = run.options.keys or partitions.covered_by_schedule(run.entity)
        config = automation.entity_config(
            name,
            allow_deletes=options.get("allow_deletes", False),
            limit=run.options.limit,
            max_cost_usd=run.options.max_cost_usd,
            force=options.get("force", False),
            include_backlog=run.options.keys is None,
        )
        result = self._execute(
            automation.job_name(name),
            [dg.AssetKey([name, asset]) for asset in ASSETS],
            tags=partitions.tags(keys),
            config=config,
            run_id=run.run_id,
        )
        run.checks = {
            c.check_name: CheckResult(c.passed, c.description or "")
            for c in result.get_asset_check_evaluations()
        }
        run.status = self.pipeline.status_of(run.entity)

    def report(self, runs: Iterable[EntityRun]) -> None:
        """Report runs outside of Dagster to the instance."""
        from embeddings_pipeline.assets.reporting import report

        for run in runs:
            report(self._instance, self.pipeline, run)

    def marts(self) -> None:
        """Build the models that read the vectors with one dbt command, where there are any."""
        if self._defs.get_repository_def().has_job("marts"):
            self._execute("marts")

    def _exists(self, node: Mapping[str, Any]) -> bool:
        with self.pipeline.staging.connection() as connection:
            return bool(columns_of(connection, node["schema"], node["alias"]))

    def _execute(
        self,
        job: str,
        assets: Sequence[dg.AssetKey] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        raise_on_error: bool = True,
    ) -> dg.ExecuteInProcessResult:
        import dagster as dg
        from dagster_postgres.utils import DagsterPostgresException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self._defs.resolve_job_def(job).execute_in_process(
                instance=self._instance,
                asset_selection=assets,
                tags=tags,
                run_config={**_QUIET, **(config or {})},
                run_id=run_id,
                raise_on_error=raise_on_error,
            )
        except dg.DagsterExecutionInterruptedError as error:
            raise Interrupted(str(error) or f"{job}: interrupted; run again to go on") from error
        except (dg.Failure, dg.DagsterError) as error:
            message = error.description if isinstance(error, dg.Failure) else str(error)
            raise EmbeddingsError(f"{job}: {message}") from error
        except (DagsterPostgresException, SQLAlchemyError) as error:
            message = str(error.__cause__ or error).partition("\n")[0]
            raise EmbeddingsError(
                f"{job}: Dagster's storage failed ({message}); run again to go on"
            ) from error


@contextmanager
def open_jobs(pipeline: Pipeline, report: Report) -> Iterator[Jobs]:
    """The jobs for a block of work, on the instance of the environment."""
    instance.prepare(pipeline.settings)
    import dagster as dg

    from embeddings_pipeline.resources.orphaned_runs import close_orphaned_runs
    from embeddings_pipeline.resources.run_context import RunContext

    with dg.DagsterInstance.get() as runs:
        keep_connections(runs)
        close_orphaned_runs(pipeline.settings, runs)
        yield Jobs(pipeline, RunContext(pipeline, report), runs)


def keep_connections(runs: dg.DagsterInstance) -> None:
    """Pool the connections of the instance, as Dagster's web server does: without a pool it opens
    one for each event."""
    runs.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=4)


def _broken(
    result: dg.ExecuteInProcessResult, keys: Iterable[dg.AssetKey]
) -> dict[dg.AssetKey, str]:
    """Why some of these models cannot be used: not built, or a test of severity error fails."""
    built = {event.asset_key for event in result.get_asset_materialization_events()}
    broken = {key: _reason(result) for key in keys if key not in built}
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.blocking:
            found = check.metadata.get("dagster_dbt/failed_row_count")
            count = f" ({found.value} rows)" if found else ""
            broken.setdefault(check.asset_key, f"dbt test {check.check_name} failed{count}")
    return broken


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return data.user_failure_data.description
        if data.error:
            error = data.error.cause or data.error
            return error.message.strip()
    return "it was not built"
