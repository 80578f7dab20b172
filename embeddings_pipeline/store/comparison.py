"""Nearest rows in vector sets, to compare two sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from pgvector import Vector as PgVector
from pgvector.psycopg import register_vector
from psycopg import sql

from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import OPERATORS, VectorSet


def shared_sample(
    tables: EntityTables, a: VectorSet, b: VectorSet, size: int
) -> list[tuple[str, int]]:
    """(id, chunk) of a sample of chunks that have a vector of the same text in both sets."""
    rows = tables.execute(
        "select a.{id}::text, a.chunk from {a} a join {b} b"
        " on b.{id} = a.{id} and b.chunk = a.chunk and b.text_hash = a.text_hash"
        " order by a.text_hash limit {size}",
        a=tables.table(a.table_name),
        b=tables.table(b.table_name),
        size=sql.Literal(size),
    )
    return [(row_id, chunk) for row_id, chunk in rows]


def neighbours(
    tables: EntityTables,
    vector_set: VectorSet,
    of: Sequence[tuple[str, int]],
    k: int,
) -> list[set[tuple[str, int]]]:
    """The k nearest chunks to each of these by exact search, without the chunk itself."""
    query = tables.fill(
        """
        select v.{id}::text, v.chunk from {vectors} v
        where (v.{id}, v.chunk) <> (%(id)s::{id_type}, %(chunk)s)
        order by v.embedding {operator} (
            select embedding from {vectors} where {id} = %(id)s::{id_type} and chunk = %(chunk)s
        ) limit {k}
        """,
        vectors=tables.table(vector_set.table_name),
        operator=_operator(vector_set),
        k=sql.Literal(k),
    )
    with tables.connection.transaction():
        tables.connection.execute("set local enable_indexscan = off")
        return [
            {(r[0], r[1]) for r in tables.connection.execute(query, {"id": row_id, "chunk": chunk})}
            for row_id, chunk in of
        ]


def nearest_rows(tables: EntityTables, vector_set: VectorSet, query: Vector, k: int) -> list[str]:
    """The ids of the k nearest rows to a vector by exact search, nearest first. The best chunk of a
    row counts."""
    register_vector(tables.connection)
    with tables.connection.transaction():
        tables.connection.execute("set local enable_indexscan = off")
        rows = tables.execute(
            "select {id}::text from {vectors} group by {id}"
            " order by min(embedding {operator} %s::{storage}), {id} limit {k}",
            (PgVector(query),),
            vectors=tables.table(vector_set.table_name),
            operator=_operator(vector_set),
            storage=sql.SQL(vector_set.storage),
            k=sql.Literal(k),
        ).fetchall()
    return [row_id for (row_id,) in rows]


def _operator(vector_set: VectorSet) -> sql.SQL:
    operator: LiteralString = OPERATORS[vector_set.metric]
    return sql.SQL(operator)
