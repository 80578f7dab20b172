"""A team's own table of vectors, read to fill a vector set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import inserted_columns


@dataclass(frozen=True)
class Foreign:
    """A table and its columns."""

    schema: str
    table: str
    id: str
    text: str
    embedding: str

    @property
    def names(self) -> dict[str, sql.Composable]:
        """For `Statements.fill`."""
        return {
            "foreign": Identifier(self.schema, self.table),
            "foreign_id": Identifier("f", self.id),
            "foreign_text": Identifier("f", self.text),
            "foreign_embedding": Identifier("f", self.embedding),
        }


def count(connection: Connection[Row], foreign: Foreign) -> int:
    """Rows of the table."""
    row = connection.execute(
        sql.SQL("select count(*) from {}").format(Identifier(foreign.schema, foreign.table))
    ).fetchone()
    return int(row[0]) if row else 0


def sample(
    connection: Connection[Row], on: Statements, foreign: Foreign, size: int
) -> list[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """(text, vector) of a few rows that fit."""
    register_vector(connection)
    rows = connection.execute(
        on.fill(
            "select t.text, {foreign_embedding}::vector from {foreign} f join {texts} t"
            " on t.{id}::text = {foreign_id}::text and t.text = {foreign_text}"
            " where t.text_hash is not null and t.parts is null limit {size}",
            size=sql.Literal(size),
            **foreign.names,
        )
    )
    return [(text, vector.to_numpy()) for text, vector in rows]


def copy(
    connection: Connection[Row],
    on: Statements,
    foreign: Foreign,
    vector_set: VectorSet,
    run_id: str,
) -> int:
    """Take over the vectors of equal ids and texts that the set lacks; returns how many."""
    return connection.execute(
        on.fill(
            """
            insert into {vectors} as v ({columns})
            select {values}
            from {foreign} f
            join {texts} t on t.{id}::text = {foreign_id}::text and t.text = {foreign_text}
            where t.text_hash is not null and t.parts is null and {foreign_embedding} is not null
                and not exists (
                    select from {vectors} h where h.{id} = t.{id} and h.chunk = t.chunk
                        and h.text_hash = t.text_hash
                )
            for share of t
            on conflict ({id}, chunk) do update set {assignments}
            """,
            vectors=on.table(vector_set.table_name),
            **foreign.names,
            **inserted_columns(
                on,
                vector_set,
                embedding=foreign.names["foreign_embedding"],
                reused_from=sql.Literal(f"{foreign.schema}.{foreign.table}"),
            ),
        ),
        (run_id,),
    ).rowcount
