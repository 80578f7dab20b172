"""The job that writes the published rows to files, to search without a database."""

from enum import Enum
from pathlib import Path

import dagster as dg

from embeddings_pipeline.resources.run_context import RunContext


class SnapshotType(Enum):
    """Exact search; or faster on many rows: lists, a graph."""

    FLAT = "flat"
    IVF = "ivf"
    HNSW = "hnsw"


class ExportConfig(dg.Config):
    """The entity, and the folder on the machine that runs the job; a snapshot in it is replaced."""

    entity: str
    folder: str
    type: SnapshotType = SnapshotType.FLAT


@dg.op(description="A FAISS index of the published vectors, with their rows.")
def export_snapshot(
    config: ExportConfig, embeddings: dg.ResourceParam[RunContext]
) -> dg.Output[None]:
    """Write the snapshot; its counts are metadata of the output."""
    # FAISS is an extra
    from embeddings_pipeline.sync.snapshot import export

    folder = Path(config.folder)
    manifest = export(
        embeddings.pipeline.vectors,
        embeddings.pipeline.schema,
        config.entity,
        folder,
        config.type.value,
        embeddings.report,
    )
    return dg.Output(
        None,
        metadata={
            "folder": dg.MetadataValue.path(str(folder)),
            "vectors": manifest.count,
            "model": manifest.model,
            "bytes": manifest.index.bytes + manifest.rows.bytes,
        },
    )


@dg.job(
    name="export",
    executor_def=dg.in_process_executor,
    description="Writes a snapshot that `embeddings-pipeline search --snapshot` reads.",
)
def export_job() -> None:
    """One op."""
    export_snapshot()
