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


def session(vector_set: VectorSet, chunks: int, *, index: bool) -> dict[str, str]:
    """Session settings: whether the index is used, and the effort at which it reaches its recall
    for this number of chunks."""
    kind = (vector_set.index_settings or {}).get("type")
    if not index or kind not in EFFORT_SETTINGS or not vector_set.ef_search:
        return {"enable_seqscan": "on"}
    least = min(chunks, MAX_EF_SEARCH) if kind == "hnsw" else 1
    effort = max(vector_set.ef_search, least)
    # the planner underestimates the cost of reading a vector from TOAST
    return {"enable_seqscan": "off", EFFORT_SETTINGS[kind]: str(effort)}


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
