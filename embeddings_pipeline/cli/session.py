"""What every command on entities begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.statements import Statements

EntityName = Annotated[str, typer.Argument(metavar="ENTITY", help="The entity.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@contextmanager
def session(settings: Settings | None = None) -> Iterator[Pipeline]:
    """A pipeline over the dbt project as it is now."""
    settings = settings or Settings.load()
    prepared_manifest(settings)
    with Pipeline.open(settings) as pipeline:
        yield pipeline


@contextmanager
def session_on(entity: str) -> Iterator[tuple[Pipeline, Statements]]:
    """The same with one entity, checked against its staging model."""
    with session() as pipeline:
        yield pipeline, pipeline.on(pipeline.entity(entity))
