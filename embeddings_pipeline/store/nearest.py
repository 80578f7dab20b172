"""Finds the vectors nearest to a query in one set, through its index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from psycopg import Connection, sql

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.store.indexes import OPERATORS
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet

# how near, the greater the nearer: pgvector's distances turned round
_SCORES: dict[str, LiteralString] = {"cosine": "1 - {d}", "l2": "-{d}", "ip": "-{d}"}
_EFFORT: dict[str, LiteralString] = {"hnsw": "hnsw.ef_search", "ivfflat": "ivfflat.probes"}


@dataclass(frozen=True)
class Hit:
    """A chunk that was found. `score` is the cosine, the inner product or minus the distance."""

    id: str
    chunk: int
    text: str
    score: float


def nearest(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, query: Vector, k: int
) -> list[Hit]:
    """The k nearest chunks, nearest first, with the effort at which the index was measured."""
    method = (vector_set.index_settings or {}).get("type")
    distance = sql.SQL(f"embedding {OPERATORS[vector_set.metric]} {{query}}").format(
        query=sql.SQL("{}::{}").format(
            sql.Literal(str(query.tolist())), sql.SQL(vector_set.storage)
        )
    )
    with connection.transaction():
        if method in _EFFORT and vector_set.ef_search:
            effort = max(vector_set.ef_search, k)
            connection.execute("select set_config(%s, %s, true)", (_EFFORT[method], str(effort)))
        rows = connection.execute(
            on.fill(
                "select {id}::text, chunk, text, {score} from {vectors} order by {distance}"
                " limit {k}",
                vectors=on.table(vector_set.table_name),
                distance=distance,
                score=sql.SQL(_SCORES[vector_set.metric]).format(
                    d=sql.SQL("({})").format(distance)
                ),
                k=sql.Literal(k),
            )
        ).fetchall()
    return [Hit(*row) for row in rows]
