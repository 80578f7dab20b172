"""The entities and partitions that a command selects, and its pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from embeddings_pipeline.cli.output import print_message
from embeddings_pipeline.dbt_command import existing_manifest
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
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
BuildsDbt = Annotated[
    bool | None,
    typer.Option(
        "--dbt/--no-dbt",
        help="Build the dbt models first, or run no dbt and read the manifest that is there.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def builds_dbt(settings: Settings, asked: bool | None) -> bool:
    """Whether a run builds dbt models: as asked, else where DBT_MANIFEST is not set."""
    return settings.dbt_manifest is None if asked is None else asked


@contextmanager
def session(
    settings: Settings | None = None, manifest: Mapping[str, Any] | None = None
) -> Iterator[Pipeline]:
    """A pipeline over this manifest, or the one that is there; dbt writes it where there is none.
    Warnings of declarations that no run reads go to standard error."""
    settings = settings or Settings.load()
    with Pipeline.open(settings, manifest or existing_manifest(settings)) as pipeline:
        for warning in pipeline.declared.warnings:
            print_message(f"warning: {warning}")
        yield pipeline


@contextmanager
def session_on(entity: str) -> Iterator[tuple[Pipeline, TableNames]]:
    """A session, and the table names of one entity, checked against its staging model."""
    with session() as pipeline:
        yield pipeline, pipeline.names_of(pipeline.entity(entity))
