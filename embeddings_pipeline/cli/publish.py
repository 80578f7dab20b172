"""`embeddings-pipeline publish` and `rollback`: which vector set the published view shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from embeddings_pipeline import engine
from embeddings_pipeline.engine import Engine
from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.sync import publish as sync

EntityName = Annotated[str, typer.Argument(metavar="ENTITY", help="The entity.")]


def publish(entity: EntityName) -> None:
    """Flip to the set that was built beside the live one, if it is complete."""
    with _opened(entity) as (work, on):
        result = sync.publish(work.vectors, on, explicit=True)
    typer.echo(result.summary)
    if result.reasons:
        raise EmbeddingsError(f"{entity}: not published")


def rollback(entity: EntityName) -> None:
    """Flip back to the set that was live before; nothing flips until the next `publish`."""
    with _opened(entity) as (work, on):
        result, behind = sync.rollback(work.vectors, on)
    typer.echo(result.summary)
    if behind:
        typer.echo(f"it lacks {behind:,} chunks: `embeddings-pipeline run {entity}` adds them")


@contextmanager
def _opened(entity: str) -> Iterator[tuple[Engine, Statements]]:
    settings = Settings.load()
    prepared_manifest(settings)
    with engine.opened(settings) as work:
        yield work, work.on(work.entity(entity))
