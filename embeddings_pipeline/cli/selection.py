"""Which entities and partitions a command is asked for, and what each such command begins with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.tables import TableNames


def require_entities(pipeline: Pipeline, names: Sequence[str], everything: bool) -> None:
    """Raise ConfigurationError unless either entities are named or all are asked for."""
    if everything == bool(names):
        known = ", ".join(pipeline.declared.models)
        raise ConfigurationError(f"name entities ({known}) or give --all")


def one_selection(partitions: str | None) -> str | None:
    """The option --partitions, which takes one key or one range."""
    if partitions is not None and "," in partitions:
        raise ConfigurationError("--partitions takes one key or FIRST..LAST")
    return partitions


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
def session_on(entity: str) -> Iterator[tuple[Pipeline, TableNames]]:
    """The same with one entity, checked against its staging model."""
    with session() as pipeline:
        yield pipeline, pipeline.names_of(pipeline.entity(entity))
