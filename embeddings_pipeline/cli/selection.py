"""The entities and partitions that a command selects, and its pipeline."""

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
    """Raise ConfigurationError unless either entities are named or `everything` is true."""
    if everything == bool(names):
        known = ", ".join(pipeline.declared.models)
        raise ConfigurationError(f"name entities ({known}) or give --all")


def partition_range(partitions: str | None) -> str | None:
    """The value of --partitions. Raises ConfigurationError unless it is one key or one range."""
    if partitions is not None and "," in partitions:
        raise ConfigurationError("--partitions takes one key or FIRST..LAST")
    return partitions


EntityName = Annotated[str, typer.Argument(metavar="ENTITY", help="The entity.")]
EntityNames = Annotated[
    list[str] | None, typer.Argument(metavar="ENTITY", help="All where none is named.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@contextmanager
def session(settings: Settings | None = None) -> Iterator[Pipeline]:
    """A pipeline over the dbt project, whose manifest is brought up to date first."""
    settings = settings or Settings.load()
    prepared_manifest(settings)
    with Pipeline.open(settings) as pipeline:
        yield pipeline


@contextmanager
def session_on(entity: str) -> Iterator[tuple[Pipeline, TableNames]]:
    """A session, and the table names of one entity, checked against its staging model."""
    with session() as pipeline:
        yield pipeline, pipeline.names_of(pipeline.entity(entity))
