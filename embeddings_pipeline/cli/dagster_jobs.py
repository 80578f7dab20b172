"""Executes the jobs of Dagster's schedules in this process, and reports other runs to Dagster. Only
the functions import Dagster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg

from embeddings_pipeline.cli import dagster_instance
from embeddings_pipeline.errors import EmbeddingsError, Failures, Interrupted
from embeddings_pipeline.pipeline import EntityRun, Pipeline, Results
from embeddings_pipeline.sync.checks import CheckResult
from embeddings_pipeline.sync.progress import Report
from embeddings_pipeline.sync.run_options import RunOptions

if TYPE_CHECKING:
    import dagster as dg

    from embeddings_pipeline.assets.options import DefsOptions
    from embeddings_pipeline.dbt_command import Build
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
    def _options(self) -> DefsOptions:
        from embeddings_pipeline.assets.options import DefsOptions

        return DefsOptions()

    @cached_property
    def _defs(self) -> dg.Definitions:
        from embeddings_pipeline.assets.factory import build_embedding_defs

        # a command does not wait for the pool, and killed it must not keep a place in the pool
        return build_embedding_defs(self.pipeline.manifest, pool=None)

    def run(self, names: Sequence[str], options: Mapping[str, Any]) -> Results[EntityRun]:
        """Execute the job of each entity, one after the other. `options` are the arguments of
        `Pipeline.run`."""
        failures, runs = Failures(), []
        max_cost_usd = self.pipeline.settings.cost_limit(options.get("max_cost_usd"))
        left = RunOptions("", limit=options.get("limit"), max_cost_usd=max_cost_usd)
        for name in names:
            entity = self.pipeline.entity(name)
            keys = self.pipeline.partition_keys([entity], options.get("partitions"))
            run = EntityRun(entity, replace(left, run_id=str(uuid4()), keys=keys))
            try:
                with failures.of(name):
                    self._execute(run, options)
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

    def report(self, runs: Iterable[EntityRun], builds: Iterable[Build]) -> None:
        """Report runs outside of Dagster, and what dbt built, to the instance."""
        from embeddings_pipeline.assets import reporting

        for build in builds:
            reporting.report_build(self._instance, build)
        for run in runs:
            reporting.report(self._instance, self.pipeline, run, self._options)

    def _execute(self, run: EntityRun, options: Mapping[str, Any]) -> None:
        import dagster as dg
        from sqlalchemy.exc import SQLAlchemyError

        from embeddings_pipeline.assets import automation, partitions

        name = run.entity.name
        job = self._options.job(name)
        keys = run.options.keys or partitions.covered_by_schedule(run.entity)
        config = automation.entity_config(
            name,
            self._options,
            allow_deletes=options.get("allow_deletes", False),
            limit=run.options.limit,
            max_cost_usd=run.options.max_cost_usd,
            force=options.get("force", False),
            include_backlog=run.options.keys is None,
        )
        try:
            result = self._defs.resolve_job_def(job).execute_in_process(
                instance=self._instance,
                tags=partitions.tags(keys),
                run_config={**_QUIET, **config},
                run_id=run.run_id,
                resources={self._options.name: self._run_context},
            )
        except dg.DagsterExecutionInterruptedError as error:
            raise Interrupted(str(error) or f"{job}: interrupted; run again to go on") from error
        except (dg.Failure, dg.DagsterError) as error:
            message = error.description if isinstance(error, dg.Failure) else str(error)
            raise EmbeddingsError(f"{job}: {message}") from error
        except SQLAlchemyError as error:
            message = str(error.__cause__ or error).partition("\n")[0]
            raise EmbeddingsError(
                f"{job}: Dagster's storage failed ({message}); run again to go on"
            ) from error
        run.checks = {
            c.check_name: CheckResult(c.passed, c.description or "")
            for c in result.get_asset_check_evaluations()
        }
        run.status = self.pipeline.status_of(run.entity)


@contextmanager
def open_jobs(pipeline: Pipeline, report: Report) -> Iterator[Jobs]:
    """The jobs for a block of work, on the instance of the environment."""
    with dagster_instance.opened(pipeline.settings) as runs:
        from embeddings_pipeline.resources.run_context import RunContext

        yield Jobs(pipeline, RunContext(pipeline, report), runs)
