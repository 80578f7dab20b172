"""The tables of one entity: their names, and statements that run on them over one connection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

from psycopg import Connection, Cursor, sql
from psycopg.errors import UndefinedTable
from psycopg.sql import Identifier

from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.errors import Busy
from embeddings_pipeline.store.connection import Postgres, Row, only, trusted


class TableNames:
    """The names of one entity's tables, filled into statements as `{texts}`, `{id}`,
    `{quarantine}` …"""

    def __init__(self, schema: str, source: Source) -> None:
        self.schema = schema
        self.source = source
        self.identifiers: dict[str, sql.Composable] = {
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
                    *("retrieval_checks", "quality_history"),
                )
            },
        }

    def fill(self, query: LiteralString, **names: sql.Composable) -> sql.Composed:
        """The query with the entity's names and the given ones filled in."""
        return sql.SQL(query).format(**self.identifiers, **names)

    def table(self, name: str) -> Identifier:
        """A table of our schema."""
        return Identifier(self.schema, name)


Values = Sequence[Any] | Mapping[str, Any] | None


class EntityTables:
    """Runs statements on the tables of one entity over one connection. Each statement is filled
    with the entity's names and with the names that the call gives."""

    def __init__(self, connection: Connection[Row], names: TableNames) -> None:
        self.connection = connection
        self.names = names

    @property
    def entity(self) -> str:
        """The name of the entity."""
        return self.source.entity.name

    @property
    def source(self) -> Source:
        """The entity, checked against its staging model."""
        return self.names.source

    @property
    def schema(self) -> str:
        """The schema that holds the tables."""
        return self.names.schema

    def table(self, name: str) -> Identifier:
        """A table of the schema."""
        return self.names.table(name)

    def fill(self, query: LiteralString, **names: sql.Composable) -> sql.Composed:
        """The query with the entity's names and the given ones filled in."""
        return self.names.fill(query, **names)

    def execute(
        self, query: LiteralString, values: Values = None, /, **names: sql.Composable
    ) -> Cursor[Row]:
        """Run a statement."""
        return self.connection.execute(self.names.fill(query, **names), values)

    def one(self, query: LiteralString, values: Values = None, /, **names: sql.Composable) -> Row:
        """The only row of a query that always gives one."""
        return only(self.execute(query, values, **names))


class SetDropped(Busy):
    """Another run dropped a vector set while it was read."""

    def __init__(self, entity: str, number: int) -> None:
        super().__init__(
            f"set {number} of entity {entity!r} is gone: another run dropped it meanwhile, try"
            " again"
        )


@contextmanager
def drop_noticed(entity: str) -> Iterator[None]:
    """A block that reads vector sets of an entity, which nothing keeps from being dropped. Raises
    SetDropped where another run drops one of them meanwhile."""
    try:
        yield
    except UndefinedTable as error:
        found = re.search(rf"\b{re.escape(entity)}_(?:vectors|chunks)_(\d+)\b", str(error))
        if found is None:
            raise
        raise SetDropped(entity, int(found[1])) from error


@contextmanager
def open_tables(database: Postgres, names: TableNames) -> Iterator[EntityTables]:
    """The tables of an entity, over a connection that lasts as long as the block.

    Raises SetDropped where another run drops a vector set that the block reads.
    """
    with drop_noticed(names.source.entity.name), database.connection() as connection:
        yield EntityTables(connection, names)
