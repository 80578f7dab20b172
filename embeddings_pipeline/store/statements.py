"""Statements on the tables of one entity: the names that they share, filled in."""

from __future__ import annotations

from typing import LiteralString

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.source import Source
from embeddings_pipeline.store.postgres import Row, trusted


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
