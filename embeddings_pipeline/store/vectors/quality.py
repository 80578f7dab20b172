"""How good vector sets are: exact search, to measure and to compare them, and the stored
measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import LiteralString

from pgvector import Vector as PgVector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import OPERATORS, VectorSet

# days that measurements are kept
_QUALITY_DAYS = 400


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


@dataclass(frozen=True)
class StoredScores:
    """The last measurement of a set by golden queries: nDCG@10 and recall@10 of each query. `rows`
    counts the chunks of the set at that time."""

    golden_hash: str
    measured_at: datetime
    rows: int
    scores: list[tuple[float, float]]


def read_scores(tables: EntityTables, vector_set: VectorSet) -> StoredScores | None:
    """The stored measurement of a set; None where it was not measured."""
    row = tables.execute(
        "select golden_hash, measured_at, rows, scores from {retrieval_checks}"
        " where entity = {entity} and vector_set = %s",
        (vector_set.number,),
    ).fetchone()
    return StoredScores(*row) if row else None


def store_scores(
    tables: EntityTables,
    vector_set: VectorSet,
    golden_hash: str,
    scores: Sequence[tuple[float, float]],
) -> None:
    """Replace the stored measurement of a set, and add its mean to the history."""
    tables.execute(
        "insert into {retrieval_checks} (entity, vector_set, rows, golden_hash, scores)"
        " select {entity}, %s, count(*), %s, %s from {vectors}"
        " on conflict (entity, vector_set) do update set measured_at = excluded.measured_at,"
        " rows = excluded.rows, golden_hash = excluded.golden_hash, scores = excluded.scores",
        (vector_set.number, golden_hash, Jsonb([*scores])),
        vectors=tables.table(vector_set.table_name),
    )
    gain = fmean(ndcg for ndcg, _ in scores)
    record(tables, vector_set.number, ndcg_at_10=gain)


@dataclass(frozen=True)
class Quality:
    """A measurement of a vector set, from 0 to 1: recall@10 of its index, or nDCG@10 of its golden
    queries."""

    measured_at: datetime
    vector_set: int
    recall_at_10: float | None
    ndcg_at_10: float | None


def record(
    tables: EntityTables,
    vector_set: int,
    *,
    recall_at_10: float | None = None,
    ndcg_at_10: float | None = None,
) -> None:
    """Add a measurement of a vector set, and delete those of the entity that are too old."""
    tables.execute(
        """
        with former as (
            delete from {quality_history}
            where entity = {entity} and measured_at < now() - make_interval(days => {days})
        )
        insert into {quality_history} (entity, vector_set, recall_at_10, ndcg_at_10)
        values ({entity}, %s, %s, %s) on conflict do nothing
        """,
        (vector_set, recall_at_10, ndcg_at_10),
        days=sql.Literal(_QUALITY_DAYS),
    )


def latest(tables: EntityTables, count: int) -> list[Quality]:
    """The latest measurements of an entity, newest first."""
    with tables.connection.cursor(row_factory=class_row(Quality)) as cursor:
        return cursor.execute(
            tables.fill(
                "select measured_at, vector_set, recall_at_10, ndcg_at_10 from {quality_history}"
                " where entity = {entity} order by measured_at desc limit {count}",
                count=sql.Literal(count),
            )
        ).fetchall()


def ids_without_text(tables: EntityTables, ids: Sequence[str]) -> list[str]:
    """Those of the ids whose rows have no text: they are gone, or have nothing to embed."""
    rows = tables.execute(
        "select given from unnest(%s::text[]) given where not exists ("
        " select from {texts} where {id} = given::{id_type}) order by given",
        ([*ids],),
    )
    return [row_id for (row_id,) in rows]


def _operator(vector_set: VectorSet) -> sql.SQL:
    operator: LiteralString = OPERATORS[vector_set.metric]
    return sql.SQL(operator)
