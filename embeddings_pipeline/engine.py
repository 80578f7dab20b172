"""The composition root without Dagster: settings become databases, encoders and entities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import Declared, entities_of, load_manifest, place_of
from embeddings_pipeline.errors import ConfigurationError, Failures
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import embedded, migrations
from embeddings_pipeline.store.migrations import Migration
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.schema import create_control_tables
from embeddings_pipeline.store.staging import source_of
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
        database = self._vectors_database()
        with database.connection() as connection:
            create_control_tables(connection, self.schema)
        return database

    def planned_migration(self) -> list[Migration]:
        """What becomes of tables of an earlier version when `vectors` is first asked for; nothing
        where they are of this one. Raises ConfigurationError for those of a later version."""
        with (
            closing(self._vectors_database()) as database,
            database.connection() as connection,
        ):
            return migrations.planned(connection, self.schema)

    def _vectors_database(self) -> Postgres:
        return Postgres(self.settings.vectors_database or self._embedded)

    @property
    def one_database(self) -> bool:
        """Whether marts can join staging models with vectors."""
        return self.settings.staging_database == self.settings.vectors_database

    @cached_property
    def declared(self) -> Declared:
        """What the dbt project's manifest declares, rightly or wrongly."""
        return entities_of(load_manifest(manifest_path(self.settings)))

    @property
    def entities(self) -> dict[str, Entity]:
        """The entities that are declared rightly, by name."""
        return self.declared.entities

    def entity(self, name: str) -> Entity:
        """One entity. Raises ConfigurationError with what is wrong with its declaration, or that
        names the choices."""
        if name in self.declared.broken:
            raise self.declared.broken[name]
        if name not in self.entities:
            raise ConfigurationError(
                f"there is no entity {name!r} (entities: {', '.join(self.declared.models)})"
            )
        return self.entities[name]

    def chosen(self, names: Iterable[str] = ()) -> tuple[list[Entity], Failures]:
        """The named entities, or all, and those of them that are declared wrongly.

        Raises ConfigurationError that names the choices for one that is not declared at all.
        """
        entities, failures = [], Failures()
        for name in list(names) or self.declared.models:
            if name in self.declared.broken:
                failures[name] = self.declared.broken[name]
            else:
                entities.append(self.entity(name))
        return entities, failures

    def on(self, entity: Entity) -> Statements:
        """The entity checked against its staging model, ready for `sync`.

        Raises ConfigurationError that names the model, the key of the declaration, its value and
        what is wrong with it.
        """
        with self.staging.connection() as connection:
            try:
                return Statements(self.schema, source_of(connection, entity))
            except ConfigurationError as error:
                raise ConfigurationError(f"{self._place_of(entity)}{error}") from error

    def close(self) -> None:
        """Close the connections that were opened and let go of the models."""
        for name in ("staging", "vectors"):
            if name in self.__dict__:
                self.__dict__[name].close()
        self.encoders.cleanup()

    def _place_of(self, entity: Entity) -> str:
        """Where the entity is declared, to begin a message with; "" where no manifest says so."""
        try:
            return f"{place_of(self.declared.models[entity.name])}, "
        except (ConfigurationError, KeyError):
            return ""

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
