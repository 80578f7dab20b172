"""The composition root without Dagster: settings become databases, encoders and entities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import entities_of, load_manifest
from embeddings_pipeline.entities.source import bind
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import embedded
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.schema import create_control_tables
from embeddings_pipeline.store.staging import staging_columns
from embeddings_pipeline.store.statements import Statements


class Engine:
    """What a process needs to bring entities up to date. Close it, or use `opened`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.encoders = Encoders(settings, lambda: self.vectors.transaction_in(self.schema))

    @property
    def schema(self) -> str:
        """The schema that holds all our tables."""
        return self.settings.pgvector_schema

    @cached_property
    def staging(self) -> Postgres:
        """The database of the staging models."""
        return Postgres(self.settings.staging_database or self._embedded)

    @cached_property
    def vectors(self) -> Postgres:
        """The database of the vectors, with our shared tables in it."""
        database = Postgres(self.settings.vectors_database or self._embedded)
        with database.connection() as connection:
            create_control_tables(connection, self.schema)
        return database

    @property
    def one_database(self) -> bool:
        """Whether marts can join staging models with vectors."""
        return self.settings.staging_database == self.settings.vectors_database

    @cached_property
    def entities(self) -> dict[str, Entity]:
        """The entities of the dbt project's manifest, by name."""
        return entities_of(load_manifest(manifest_path(self.settings)))

    def entity(self, name: str) -> Entity:
        """One entity. Raises ConfigurationError that names the choices."""
        if name not in self.entities:
            raise ConfigurationError(
                f"there is no entity {name!r} (entities: {', '.join(self.entities)})"
            )
        return self.entities[name]

    def on(self, entity: Entity) -> Statements:
        """The entity checked against its staging model's columns, ready for `sync`."""
        with self.staging.connection() as connection:
            columns = staging_columns(connection, entity.db_schema, entity.table)
        return Statements(self.schema, bind(entity, columns))

    def close(self) -> None:
        """Close the connections that were opened and let go of the models."""
        for name in ("staging", "vectors"):
            if name in self.__dict__:
                self.__dict__[name].close()
        self.encoders.cleanup()

    @cached_property
    def _embedded(self) -> Database:
        return embedded.start(self.settings.embedded_data_dir)


def manifest_path(settings: Settings) -> Path:
    """Where dbt writes the manifest of the project."""
    return settings.dbt_project_dir / "target" / "manifest.json"


@contextmanager
def opened(settings: Settings | None = None) -> Iterator[Engine]:
    """An engine for a block of work."""
    engine = Engine(settings or Settings.load())
    try:
        yield engine
    finally:
        engine.close()
