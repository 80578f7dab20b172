"""The nearest chunks of a vector set to a vector, as part of a search statement."""

from __future__ import annotations

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
    """(id, chunk, score) of the nearest chunks to the parameter `vector`, in no particular order.
    `more` adds columns: a comma and named expressions of the vectors `v`."""
    vector_set = published.vector_set
    distance = sql.SQL("v.embedding {} %(vector)b::vector::{}").format(
        sql.SQL(OPERATORS[vector_set.metric]), sql.SQL(vector_set.storage)
    )
    return published.names.fill(
        """
        select n.*, {similarity} as score from (
            select v.{id}, v.chunk, {distance} as distance {more} from {vectors} v where {where}
            order by {order} limit {chunks}
            -- the cosine of a zero vector is undefined
        ) as n where distance < 'infinity'
        """,
        similarity=sql.SQL(SIMILARITY[vector_set.metric]),
        distance=distance,
        more=more,
        vectors=published.vectors,
        where=where,
        # an index does not match the sum
        order=sql.SQL("({}) + 0").format(distance) if exact else distance,
        chunks=Literal(chunks),
    )
