"""The nearest chunks of a vector set to a vector, as part of a search statement."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.vector_sets import (
    EFFORT_SETTINGS,
    MAX_EF_SEARCH,
    OPERATORS,
    SIMILARITY,
    VectorSet,
)

NOTHING = sql.SQL("")
# an index does not match the sum
_EXACT: LiteralString = "({distance}) + 0, v.{id}, v.chunk limit {chunks}"
# an index knows no order of equally near chunks
_BY_INDEX: LiteralString = "{distance} fetch first {chunks} rows with ties"


def session(vector_set: VectorSet, chunks: int, effort: int | None) -> dict[str, str]:
    """Session settings of a search for this number of chunks through the index at an effort, or
    without the index."""
    kind = vector_set.searched_index
    if effort is None or kind is None:
        return {"enable_seqscan": "on"}
    least = min(chunks, MAX_EF_SEARCH) if kind == "hnsw" else 1
    # the planner underestimates the cost of reading a vector from TOAST
    return {"enable_seqscan": "off", EFFORT_SETTINGS[kind]: str(max(effort, least))}


def near(
    published: Published,
    where: sql.Composable,
    chunks: int,
    *,
    exact: bool,
    more: sql.Composable = NOTHING,
) -> sql.Composable:
    """(id, chunk, score) of the nearest chunks to the parameter `vector`, the nearest first, and
    equally near ones in the order of their ids. `more` adds columns: a comma and named expressions
    of the vectors `v`."""
    vector_set = published.vector_set
    distance = sql.SQL("v.embedding {} %(vector)b::vector::{}").format(
        sql.SQL(OPERATORS[vector_set.metric]), sql.SQL(vector_set.storage)
    )
    return published.names.fill(
        """
        select n.*, {similarity} as score from (
            select v.{id}, v.chunk, {distance} as distance {more} from {vectors} v where {where}
            order by {order}
            -- the cosine of a zero vector is undefined
        ) as n where distance < 'infinity' order by distance, {id}, chunk limit {chunks}
        """,
        similarity=sql.SQL(SIMILARITY[vector_set.metric]),
        distance=distance,
        more=more,
        vectors=published.vectors,
        where=where,
        order=published.names.fill(
            _EXACT if exact else _BY_INDEX, distance=distance, chunks=Literal(chunks)
        ),
        chunks=Literal(chunks),
    )
