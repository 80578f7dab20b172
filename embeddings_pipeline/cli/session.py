"""What every command on entities begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from embeddings_pipeline.engine import Engine, opened
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.statements import Statements

EntityName = Annotated[str, typer.Argument(metavar="ENTITY", help="The entity.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@contextmanager
def session() -> Iterator[Engine]:
    """An engine over the dbt project as it is now."""
    settings = Settings.load()
    prepared_manifest(settings)
    with opened(settings) as engine:
        yield engine


@contextmanager
def session_on(entity: str) -> Iterator[tuple[Engine, Statements]]:
    """The same with one entity, checked against its staging model."""
    with session() as engine:
        yield engine, engine.on(engine.entity(entity))
