"""The vector index of a set: what decides it, and what has become of it since it was built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Connection, sql

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vectors.vector_set import VectorSet

# the most links a node that pgvector takes
_MAX_M = 100

OPERATORS: dict[str, LiteralString] = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}
# what says how thoroughly an index is searched
EFFORT_SETTINGS: dict[str, LiteralString] = {
    "hnsw": "hnsw.ef_search",
    "ivfflat": "ivfflat.probes",
}


def settings_of(index: Index, metric: str, rows: int) -> dict[str, Any]:
    """All that decides an index, as it is stored beside the set."""
    if index.type == "hnsw":
        return {
            "type": "hnsw",
            "metric": metric,
            "m": index.m,
            "ef_construction": index.ef_construction,
        }
    if index.type == "ivfflat":
        return {"type": "ivfflat", "metric": metric, "lists": index.lists or default_lists(rows)}
    return {"type": "none", "metric": metric}


def stronger(settings: dict[str, Any]) -> dict[str, Any] | None:
    """The same index with twice the links, or None where there is none.

    Many equal vectors fill one another's links and cut the graph into islands; more links join
    them again.
    """
    if settings.get("type") != "hnsw" or settings["m"] >= _MAX_M:
        return None
    m = min(settings["m"] * 2, _MAX_M)
    return {
        **settings,
        "m": m,
        "ef_construction": min(max(settings["ef_construction"], 2 * m), 1000),
    }


def default_lists(rows: int) -> int:
    """IVFFlat lists for a number of rows: rows / 1000, the root of rows above a million.

    Source: https://github.com/pgvector/pgvector#ivfflat
    """
    return max(1, rows // 1000 if rows <= 1_000_000 else round(math.sqrt(rows)))


@dataclass(frozen=True)
class Wear:
    """The rows of a set at the time `at`, and how many of them were written since another time."""

    rows: int
    fresh: int
    at: datetime

    def share(self, former: int) -> float:
        """The share of the rows that are new, changed or gone, where there were `former` then."""
        gone = former - (self.rows - self.fresh)
        return max(self.fresh, gone) / max(self.rows, former, 1)


def wear(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, since: datetime | None
) -> Wear:
    """What was written to a set since a time, or ever."""
    return Wear(
        *on.one(
            connection,
            "select count(*), count(*) filter (where updated_at > {since}), clock_timestamp()"
            " from {vectors}",
            since=sql.SQL("coalesce({}::timestamptz, '-infinity')").format(sql.Literal(since)),
            vectors=on.table(vector_set.table_name),
        )
    )


def index_name(vector_set: VectorSet) -> str:
    """The index that searches of a set use."""
    return f"{vector_set.table_name}_index"


def size(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> int | None:
    """The bytes of a set's index; None where there is none that searches can use."""
    row = connection.execute(
        on.fill(
            "select pg_relation_size(indexrelid) from pg_index"
            " where indexrelid = to_regclass({index}) and indisvalid",
            index=sql.Literal(on.table(index_name(vector_set)).as_string(connection)),
        )
    ).fetchone()
    return row[0] if row else None
