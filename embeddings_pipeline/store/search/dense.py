"""The chunks of one vector set that are nearest to a vector, as part of a search statement."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.index.build import EFFORT_SETTINGS, OPERATORS
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.vectors.vector_set import VectorSet

# how near, the greater the nearer; <#> is minus the inner product
_SIMILARITY: dict[str, LiteralString] = {
    "cosine": "1 - distance",
    "l2": "1 / (1 + distance)",
    "ip": "-distance",
}
NOTHING = sql.SQL("")
_MAX_EF_SEARCH = 1000
# what a row that an index passes costs more than one that is compared
_INDEX_PRICE = 10


def better_compared(passing: int, total: int, wanted: int) -> bool:
    """Whether it takes less to compare all rows that pass a filter than to use the index.

    To compare m of n rows takes m times the work of one; an index passes k n / m rows to meet k of
    them, at some ten times the work for each.
    """
    return passing**2 <= _INDEX_PRICE * wanted * total


def session(vector_set: VectorSet, chunks: int, *, index: bool) -> dict[str, str]:
    """Settings of the session: the effort at which the index reaches its recall for so many
    chunks, and that it is used, or else not."""
    kind = (vector_set.index_settings or {}).get("type")
    if not index or kind not in EFFORT_SETTINGS or not vector_set.ef_search:
        return {"enable_seqscan": "on"}
    least = min(chunks, _MAX_EF_SEARCH) if kind == "hnsw" else 1
    effort = max(vector_set.ef_search, least)
    # the planner does not know what it costs to read a vector that is kept beside its row
    return {"enable_seqscan": "off", EFFORT_SETTINGS[kind]: str(effort)}


def near(
    published: Published,
    where: sql.Composable,
    chunks: int,
    *,
    exact: bool,
    more: sql.Composable = NOTHING,
) -> sql.Composable:
    """(id, chunk, score) of the nearest chunks to the parameter `vector`, in no promised order;
    and `more`, which is a comma and expressions of the vectors `v`, each with a name."""
    vector_set = published.vector_set
    distance = sql.SQL("v.embedding {} %(vector)b::vector::{}").format(
        sql.SQL(OPERATORS[vector_set.metric]), sql.SQL(vector_set.storage)
    )
    return published.names.fill(
        """
        select n.*, {similarity} as score from (
            select v.{id}, v.chunk, {distance} as distance {more} from {vectors} v where {where}
            order by {order} limit {chunks}
            -- a vector of zeros has no cosine with another
        ) as n where distance < 'infinity'
        """,
        similarity=sql.SQL(_SIMILARITY[vector_set.metric]),
        distance=distance,
        more=more,
        vectors=published.names.table(vector_set.table_name),
        where=where,
        # no index is on the sum
        order=sql.SQL("({}) + 0").format(distance) if exact else distance,
        chunks=Literal(chunks),
    )


def least_similarity(
    metric: str, min_similarity: float | None, max_distance: float | None
) -> float | None:
    """The similarity below which nothing is near enough; None where everything is.

    A distance is pgvector's own: the cosine distance, the Euclidean, minus the inner product.
    """
    bounds = [min_similarity] if min_similarity is not None else []
    if max_distance is not None:
        if metric == "l2" and max_distance < 0:
            raise ConfigurationError(f"max_distance {max_distance} is below 0, as no distance is")
        similarity = {
            "cosine": 1 - max_distance,
            "l2": 1 / (1 + max_distance) if metric == "l2" else 0,
            "ip": -max_distance,
        }
        bounds.append(similarity[metric])
    return max(bounds, default=None)
