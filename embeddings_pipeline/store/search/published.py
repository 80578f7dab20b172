"""The published state of an entity, read from the database, without a dbt project."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.errors import NotFound, RunNeeded
from embeddings_pipeline.store import declarations, vector_sets
from embeddings_pipeline.store.connection import Row, columns_of, consistent_read
from embeddings_pipeline.store.filters import Group
from embeddings_pipeline.store.filters import where as conditions
from embeddings_pipeline.store.tables import EntityTables, TableNames
from embeddings_pipeline.store.vector_sets import VectorSet


@dataclass(frozen=True, eq=False)
class Published:
    """An entity and its live set at one moment. The `version` changes with either of them.

    `documents` and `average_tokens` were measured when the lexemes were counted. `columns` are
    those of the set's table.
    """

    names: TableNames
    vector_set: VectorSet
    version: str
    documents: int | None
    average_tokens: float
    columns: frozenset[str]

    @property
    def vectors(self) -> Identifier:
        """The table of the live set."""
        return self.names.table(self.vector_set.table_name)

    @property
    def shown(self) -> frozenset[str]:
        """Those of title, url and image_url that the set has."""
        return frozenset(self.names.source.entity.shown) & self.columns

    @property
    def filters(self) -> dict[str, str]:
        """The filter columns and their types."""
        return dict(self.names.source.filters)


def names(connection: Connection[Row], schema: str) -> list[str]:
    """The entities with a published set."""
    rows = connection.execute(
        sql.SQL("select entity from {} where state = 'live' order by 1").format(
            Identifier(schema, "vector_sets")
        )
    )
    return [name for (name,) in rows]


def version(schema: str, entity: str) -> sql.Composable:
    """An expression for the version of the published state; null where nothing is published."""
    return sql.SQL(
        # the transactions that last wrote the two rows
        "(select e.xmin || '/' || s.xmin from {entities} e join {sets} s using (entity)"
        " where entity = {entity} and state = 'live')"
    ).format(
        entities=Identifier(schema, "entities"),
        sets=Identifier(schema, "vector_sets"),
        entity=Literal(entity),
    )


def read(connection: Connection[Row], schema: str, entity: str) -> Published:
    """The published state of an entity. Raises NotFound with the choices for an unknown entity, and
    RunNeeded where nothing is published yet."""
    with consistent_read(connection):
        row = connection.execute(
            sql.SQL(
                "select {version}, definition::text, id_type, documents, average_tokens"
                " from {entities} where entity = {entity}"
            ).format(
                version=version(schema, entity),
                entities=Identifier(schema, "entities"),
                # a literal: with a parameter, a % in the name would be a placeholder
                entity=Literal(entity),
            )
        ).fetchone()
        if row is None or row[0] is None:
            none = "none yet: run `embeddings-pipeline run --all`"
            choices = ", ".join(names(connection, schema)) or none
            if row is None:
                raise NotFound(f"there is no entity {entity!r} (published: {choices})")
            raise RunNeeded(f"nothing is published yet of entity {entity!r} (published: {choices})")
        current, definition, id_type, documents, average_tokens = row
        declared = declarations.read_definition(entity, definition)
        source = Source(declared, {}, id_type, (), {})
        tables = EntityTables(connection, TableNames(schema, source))
        (live,) = vector_sets.read(tables, ("live",))
        columns = columns_of(connection, schema, live.table_name)
    filters = {name: columns[name] for name in declared.filters if name in columns}
    return Published(
        TableNames(schema, Source(declared, {}, id_type, (), filters)),
        live,
        current,
        documents,
        average_tokens or 1.0,
        frozenset(columns),
    )


def passing(
    published: Published, filters: Group, *, exclude: bool, of_texts: bool = False
) -> sql.Composable:
    """A condition on the vectors `v`: they pass the filters, and are not of the row `exclude`.
    Vectors that are joined with their texts `t` may be filtered by the columns `of_texts`, which
    are the same."""
    where = conditions(filters, "t" if of_texts else "v")
    if exclude:
        where = published.names.fill("{all} and v.{id} <> %(exclude)s::{id_type}", all=where)
    return where


def coverage(connection: Connection[Row], schema: str, entity: str) -> tuple[float, float]:
    """The percentage of an entity's rows with vectors, and the age in seconds of the oldest pending
    change (0 where nothing is pending)."""
    row = connection.execute(
        sql.SQL(
            "select coverage_percent, coalesce(oldest_pending_seconds, 0) from {} where entity = %s"
        ).format(Identifier(schema, "entity_coverage")),
        (entity,),
    ).fetchone()
    return (float(row[0]), float(row[1])) if row else (100.0, 0.0)
