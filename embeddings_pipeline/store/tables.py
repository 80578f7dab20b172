"""The tables of one entity, over one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg import Connection, Cursor, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.source import Source
from embeddings_pipeline.store.postgres import Row, only
from embeddings_pipeline.store.statements import Statements

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
