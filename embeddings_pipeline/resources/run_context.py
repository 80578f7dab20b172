"""Gives assets the pipeline and the entities of a run, reports their progress, and stops them on a
signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import entities_of, load_manifest
from embeddings_pipeline.errors import ConfigurationError, Interrupted
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from embeddings_pipeline.pipeline import Pipeline
    from embeddings_pipeline.sync.progress import Report
    from embeddings_pipeline.sync.run_options import RunOptions

# dagster-dbt names the folder of an invocation by the op and this many characters of the run's id
_RUN_ID_PREFIX = 7


class RunContext:
    """The pipeline of a run, the function that receives its progress, and the folders in which
    single dbt builds of the code location leave their manifests."""

    def __init__(self, pipeline: Pipeline, report: Report, targets: Sequence[Path] = ()) -> None:
        self.pipeline = pipeline
        self.report = report
        self._targets = targets

    @classmethod
    def of(cls, context: Any, resource: str) -> RunContext:
        """The resource of a step."""
        running: RunContext = getattr(context.resources, resource)
        return running

    def entity(self, loaded: Entity, run: dg.DagsterRun) -> Entity:
        """The entity as the dbt build of this run declares it, else as the manifest does now.

        Its schema, name, columns and model may have changed since the code location was loaded, by
        an environment variable, a profile or an edit. Raises ConfigurationError for a declaration
        that is wrong now, or is gone, or has other partitions.
        """
        path = self._built_manifest(run)
        declared = entities_of(load_manifest(path)) if path else self.pipeline.declared
        built = declared.entity(loaded.name)
        if built.partitions != loaded.partitions:
            raise ConfigurationError(
                f"entity {loaded.name!r}: its partitions are declared differently since the code"
                " location was loaded: reload it"
            )
        return built

    def _built_manifest(self, run: dg.DagsterRun) -> Path | None:
        """The newest manifest of dbt builds in this run, or in the run that it repeats."""
        for run_id in (run.run_id, run.parent_run_id, run.root_run_id):
            if not run_id:
                continue
            found = [
                path
                for target in self._targets
                for path in target.glob(f"*-{run_id[:_RUN_ID_PREFIX]}-*/manifest.json")
            ]
            if found:
                return max(found, key=lambda path: path.stat().st_mtime)
        return None

    @contextmanager
    def options(self, run_id: str, keys: Sequence[str], **config: Any) -> Iterator[RunOptions]:
        """The options of a step, from its configuration. SIGINT and SIGTERM end the block soon.

        A step without a limit of its own may cost EMBEDDING_MAX_COST_USD. Raises
        DagsterExecutionInterruptedError when stopped; Dagster shows the run as canceled.
        """
        from embeddings_pipeline import stopping
        from embeddings_pipeline.sync.run_options import RunOptions

        config["max_cost_usd"] = self.pipeline.settings.cost_limit(config.get("max_cost_usd"))
        with stopping.on_signals() as stopped, self.pipeline.encoders.stop_when(stopped):
            try:
                yield RunOptions(
                    run_id=run_id, keys=keys, report=self.report, stopped=stopped, **config
                )
            except Interrupted as error:
                raise dg.DagsterExecutionInterruptedError(str(error)) from error


def pipeline_resource(
    settings: Mapping[str, Any],
    manifest: Path | Mapping[str, Any],
    targets: Sequence[Path] = (),
) -> dg.ResourceDefinition:
    """The resource that gives each run its pipeline over a dbt manifest.

    Settings that are not given come from the environment when a run starts; a `dg.EnvVar` among
    the given ones is read then, too, so a secret is in no definition. `batch_size` replaces
    EMBEDDING_BATCH_SIZE in a run.
    """

    @dg.resource(
        config_schema={"batch_size": dg.Field(dg.Noneable(int), default_value=None)},
        description="The databases, encoders and entities of a run.",
    )
    def resource(context: dg.InitResourceContext) -> Iterator[RunContext]:
        from embeddings_pipeline.pipeline import Pipeline

        given = {name: _value(value) for name, value in settings.items()}
        if batch_size := context.resource_config["batch_size"]:
            given["embedding_batch_size"] = batch_size
        with Pipeline.open(Settings.load(**given), manifest) as pipeline:
            yield RunContext(pipeline, _logged(context), targets)

    return resource


def _value(given: Any) -> Any:
    return given.get_value() if isinstance(given, dg.EnvVar) else given


def _logged(context: dg.InitResourceContext) -> Report:
    from embeddings_pipeline.sync.progress import ignore_progress, of_progress, throttled

    log = context.log
    return throttled(lambda progress: log.info(of_progress(progress))) if log else ignore_progress
