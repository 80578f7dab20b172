"""`embeddings-pipeline export`: published vectors in files, to search without a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.selection import AsJson, EntityName
from embeddings_pipeline.entities.model import SnapshotType
from embeddings_pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from embeddings_pipeline.sync.snapshot import Manifest


def export(
    entity: EntityName,
    to: Annotated[Path, typer.Option(help="The folder; a snapshot in it is replaced.")],
    kind: Annotated[
        SnapshotType,
        typer.Option("--type", help="Exact search; or faster on many rows: lists, a graph."),
    ] = "flat",
    as_json: AsJson = False,
) -> None:
    """Write the published vectors and rows to a FAISS snapshot. Needs no dbt project."""
    # FAISS is an extra
    from embeddings_pipeline.sync.snapshot import export as write

    with Pipeline.open() as pipeline, output.progress() as report:
        manifest = write(pipeline.vectors, pipeline.schema, entity, to, kind, report)
    if as_json:
        output.print_json({"folder": str(to), **manifest.model_dump(mode="json")})
    else:
        _show(to, manifest)


def _show(folder: Path, manifest: Manifest) -> None:
    megabytes = (manifest.index.bytes + manifest.rows.bytes) / (1 << 20)
    output.print_line(
        f"{manifest.entity}: {manifest.count:,} vectors of {manifest.model} in {folder}"
        f" ({manifest.kind}, {megabytes:,.1f} MiB)"
    )
