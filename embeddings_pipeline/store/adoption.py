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
from embeddings_pipeline.store.vectors import fill

# how far from 1 a vector may be that was stored as floats of two bytes
_TOLERANCE = 1e-2


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


def dimensions(connection: Connection[Row], foreign: Foreign) -> list[int]:
    """The dimensions that the table's vectors have; more than one where its column fixes none."""
    rows = connection.execute(
        sql.SQL(
            "select distinct vector_dims({foreign_embedding}::vector) from {foreign} f"
            " where {foreign_embedding} is not null order by 1"
        ).format(**foreign.names)
    )
    return [dimension for (dimension,) in rows]


def sample(
    connection: Connection[Row],
    on: Statements,
    foreign: Foreign,
    vector_set: VectorSet,
    size: int,
) -> list[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """(text, vector) of a few rows that fit."""
    register_vector(connection)
    rows = connection.execute(
        on.fill(
            "select t.text, {foreign_embedding}::vector from {foreign} f join {texts} t"
            " on t.{id}::text = {foreign_id}::text and t.text = {foreign_text}"
            " where t.text_hash is not null and t.parts is null and {usable} limit {size}",
            usable=_usable(foreign, vector_set),
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
    """Take over the vectors of equal ids and texts that the set lacks; returns how many.

    Of an id that the table has twice with one text, one vector is taken.
    """
    source = on.fill(
        """
        (
            select distinct on ({foreign_id}::text, {foreign_text}) *
            from {foreign} f where {usable}
            order by {foreign_id}::text, {foreign_text}
        ) as f
        join {texts} t on t.{id}::text = {foreign_id}::text and t.text = {foreign_text}
        where t.text_hash is not null and t.parts is null
            and not exists (
                select from {vectors} h where h.{id} = t.{id} and h.chunk = t.chunk
                    and h.text_hash = t.text_hash
            )
        """,
        usable=_usable(foreign, vector_set),
        vectors=on.table(vector_set.table_name),
        **foreign.names,
    )
    return fill(
        *(connection, on, vector_set, source, run_id),
        embedding=foreign.names["foreign_embedding"],
        reused_from=sql.Literal(f"{foreign.schema}.{foreign.table}"),
    )


def _usable(foreign: Foreign, vector_set: VectorSet) -> sql.Composable:
    """Whether a vector could be one of the set: of its dimension and a length that its model
    gives."""
    return sql.SQL("vector_dims({foreign_embedding}::vector) = {dimension} and {length}").format(
        dimension=sql.Literal(vector_set.dimension),
        length=sql.SQL(
            "abs(vector_norm({foreign_embedding}::vector) - 1) < {tolerance}"
            if vector_set.normalized
            else "vector_norm({foreign_embedding}::vector) > 0"
        ).format(tolerance=sql.Literal(_TOLERANCE), **foreign.names),
        **foreign.names,
    )
