"""Gives assets the pipeline, reports their progress, and stops them on a signal."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from embeddings_pipeline.errors import Interrupted
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync import stopping
from embeddings_pipeline.sync.progress import Progress, Report, of_progress
from embeddings_pipeline.sync.run_options import RunOptions

_LOG_EVERY_SECONDS = 5


class RunContext:
    """The pipeline of a run, and the function that receives its progress."""

    def __init__(self, pipeline: Pipeline, report: Report) -> None:
        self.pipeline = pipeline
        self.report = report

    @contextmanager
    def options(
        self, run_id: str, keys: Sequence[str] | None, **config: Any
    ) -> Iterator[RunOptions]:
        """The options of a step, from its configuration. SIGINT and SIGTERM end the block soon.

        A step without a limit of its own may cost EMBEDDING_MAX_COST_USD. Raises
        DagsterExecutionInterruptedError when stopped; Dagster shows the run as canceled.
        """
        config["max_cost_usd"] = self.pipeline.settings.cost_limit(config.get("max_cost_usd"))
        with stopping.on_signals() as stopped, self.pipeline.encoders.stop_when(stopped):
            try:
                yield RunOptions(
                    run_id=run_id, keys=keys, report=self.report, stopped=stopped, **config
                )
            except Interrupted as error:
                raise dg.DagsterExecutionInterruptedError(str(error)) from error


class PipelineResource(dg.ConfigurableResource[RunContext]):
    """The pipeline, one for each run. `batch_size` replaces EMBEDDING_BATCH_SIZE in a run."""

    batch_size: int | None = None

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[RunContext]:
        """Open the pipeline for a run, and close it afterwards."""
        settings = Settings.load()
        if self.batch_size is not None:
            settings = settings.model_copy(update={"embedding_batch_size": self.batch_size})
        with Pipeline.open(settings) as pipeline:
            yield RunContext(pipeline, _logged(context))


def _logged(context: dg.InitResourceContext) -> Report:
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        if context.log and time.monotonic() - last > _LOG_EVERY_SECONDS:
            last = time.monotonic()
            context.log.info(of_progress(progress))

    return report
