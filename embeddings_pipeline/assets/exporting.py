"""The job that writes the published rows to files, to search without a database."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.entities.model import SnapshotType
from embeddings_pipeline.resources.run_context import RunContext


class ExportConfig(dg.Config):
    """The entity, and the folder on the machine that runs the job; a snapshot in it is replaced."""

    entity: str
    folder: str
    type: SnapshotType = "flat"


def export_job(options: DefsOptions) -> dg.JobDefinition:
    """A job of one op; the counts of the snapshot are metadata of its output."""

    @dg.op(
        name=f"{options.name}__export",
        description="A FAISS index of the published vectors, with their rows.",
        required_resource_keys={options.name},
        out=dg.Out(dg.Nothing),
    )
    def export_snapshot(
        context: dg.OpExecutionContext, config: ExportConfig
    ) -> Iterator[dg.Output[None]]:
        # FAISS is an extra
        from embeddings_pipeline.sync.snapshot import export

        running = RunContext.of(context, options.name)
        folder = Path(config.folder)
        manifest = export(
            running.pipeline.vectors,
            running.pipeline.schema,
            config.entity,
            folder,
            config.type,
            running.report,
        )
        yield dg.Output(
            None,
            metadata={
                "folder": dg.MetadataValue.path(str(folder)),
                "vectors": manifest.count,
                "model": manifest.model,
                "bytes": manifest.index.bytes + manifest.rows.bytes,
            },
        )

    @dg.job(
        name=f"{options.name}_export",
        executor_def=dg.in_process_executor,
        description="Writes a snapshot that `embeddings-pipeline search --snapshot` reads.",
    )
    def job() -> None:
        export_snapshot()

    return job
