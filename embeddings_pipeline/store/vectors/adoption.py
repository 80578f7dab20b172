"""Copies the vectors of a team's own table into the embedding cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors.cache import next_version

# the length of a normalized vector stored as two-byte floats may differ from 1 by this much
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Foreign:
    """A table of vectors and its columns."""

    schema: str
    table: str
    id: str
    text: str
    embedding: str

    @property
    def names(self) -> dict[str, sql.Composable]:
        """The names to fill into statements."""
        return {
            "foreign": Identifier(self.schema, self.table),
            "foreign_id": Identifier("f", self.id),
            "foreign_text": Identifier("f", self.text),
            "foreign_embedding": Identifier("f", self.embedding),
        }


def count(connection: Connection[Row], foreign: Foreign) -> int:
    """The number of rows of the table."""
    row = connection.execute(
        sql.SQL("select count(*) from {}").format(Identifier(foreign.schema, foreign.table))
    ).fetchone()
    return int(row[0]) if row else 0


def dimensions(connection: Connection[Row], foreign: Foreign) -> list[int]:
    """The dimensions of the table's vectors; several where the column has no fixed dimension."""
    rows = connection.execute(
        sql.SQL(
            "select distinct vector_dims({foreign_embedding}::vector) from {foreign} f"
            " where {foreign_embedding} is not null order by 1"
        ).format(**foreign.names)
    )
    return [dimension for (dimension,) in rows]


def sample(
    tables: EntityTables,
    foreign: Foreign,
    vector_set: VectorSet,
    size: int,
) -> list[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """(text, vector) of `size` rows with an equal text and a usable vector."""
    register_vector(tables.connection)
    rows = tables.execute(
        "select t.text, {foreign_embedding}::vector from {foreign} f join {texts} t"
        " on t.{id}::text = {foreign_id}::text and t.text = {foreign_text}"
        " where t.text_hash is not null and t.part_hashes is null and {usable} limit {size}",
        usable=_usable(foreign, vector_set),
        size=sql.Literal(size),
        **foreign.names,
    )
    return [(text, vector.to_numpy()) for text, vector in rows]


def copy(tables: EntityTables, foreign: Foreign, vector_set: VectorSet, run_id: str) -> int:
    """Copy vectors with an equal id and text into the embedding cache, where it has no entry;
    returns how many chunks got one.

    Where the table has several rows with the same id and text, one vector is copied.
    """
    (fitted,) = tables.one(
        """
        with fitting as (
            select t.{id}, t.chunk, t.text_hash, {foreign_embedding}::vector as embedding
            from {foreign} f
            join {texts} t on t.{id}::text = {foreign_id}::text and t.text = {foreign_text}
            where t.text_hash is not null and t.part_hashes is null and {usable}
            for share of t
        ),
        taken as (
            insert into {cache} (text_hash, embedding, version, run_id)
            select distinct on (text_hash) text_hash, embedding, {version}, {run}
            from fitting order by text_hash
            on conflict (text_hash) do nothing
            returning text_hash
        )
        select count(distinct ({id}, chunk)) from fitting join taken using (text_hash)
        """,
        usable=_usable(foreign, vector_set),
        cache=tables.table(vector_set.cache_table),
        version=sql.Literal(next_version(tables.connection, tables.schema)),
        run=sql.Literal(run_id),
        **foreign.names,
    )
    return int(fitted)


def _usable(foreign: Foreign, vector_set: VectorSet) -> sql.Composable:
    """Whether a vector has the dimension of the set, and a length that its model may return."""
    return sql.SQL("vector_dims({foreign_embedding}::vector) = {dimension} and {length}").format(
        dimension=sql.Literal(vector_set.dimension),
        length=sql.SQL(
            "abs(vector_norm({foreign_embedding}::vector) - 1) < {tolerance}"
            if vector_set.normalized
            else "vector_norm({foreign_embedding}::vector) > 0"
        ).format(tolerance=sql.Literal(_TOLERANCE), **foreign.names),
        **foreign.names,
    )
