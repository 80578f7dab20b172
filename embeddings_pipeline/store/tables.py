"""The tables of one entity: statements with their names filled in, and these over one
connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg import Connection, Cursor, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.store.connection import Row, only, trusted


class Statements:
    """Fills `{texts}`, `{id}`, `{quarantine}` … into SQL for one entity."""

    def __init__(self, schema: str, source: Source) -> None:
        self.schema = schema
        self.source = source
        self.names: dict[str, sql.Composable] = {
            "texts": Identifier(schema, f"{source.entity.name}_texts"),
            "lexemes": Identifier(schema, f"{source.entity.name}_lexemes"),
            "id": Identifier(source.entity.id),
            "id_type": trusted(source.id_type),
            "entity": sql.Literal(source.entity.name),
            **{
                table: Identifier(schema, table)
                for table in (
                    *("entities", "model_identities", "vector_sets", "cache_candidates"),
                    *("renewals", "claims", "quarantine", "erasures", "run_ledger"),
                )
            },
        }

    def fill(self, query: LiteralString, **names: sql.Composable) -> sql.Composed:
        """The query with the entity's names, and these, in their places."""
        return sql.SQL(query).format(**self.names, **names)

    def one(
        self, connection: Connection[Row], query: LiteralString, **names: sql.Composable
    ) -> Row:
        """The only row of a query that always gives one."""
        row = connection.execute(self.fill(query, **names)).fetchone()
        if row is None:
            raise LookupError(f"no row for {self.source.entity.name!r}: {query}")
        return row

    def table(self, name: str) -> Identifier:
        """A table of our schema."""
        return Identifier(self.schema, name)


Values = Sequence[Any] | Mapping[str, Any] | None


class EntityTables:
    """Runs statements on the tables of one entity: `{texts}`, `{id}`, `{quarantine}` … are filled
    in, and so are the names that a call gives."""

    def __init__(self, connection: Connection[Row], on: Statements) -> None:
        self.connection = connection
        self.on = on

    @property
    def entity(self) -> str:
        """The name of the entity."""
        return self.source.entity.name

    @property
    def source(self) -> Source:
        """The entity, checked against its staging model."""
        return self.on.source

    @property
    def schema(self) -> str:
        """The schema that holds the tables."""
        return self.on.schema

    def table(self, name: str) -> Identifier:
        """A table of the schema."""
        return self.on.table(name)

    def fill(self, query: LiteralString, **names: sql.Composable) -> sql.Composed:
        """The query with the entity's names, and these, in their places."""
        return self.on.fill(query, **names)

    def execute(
        self, query: LiteralString, values: Values = None, /, **names: sql.Composable
    ) -> Cursor[Row]:
        """Run a statement."""
        return self.connection.execute(self.on.fill(query, **names), values)

    def one(self, query: LiteralString, values: Values = None, /, **names: sql.Composable) -> Row:
        """The only row of a query that always gives one."""
        return only(self.execute(query, values, **names))
