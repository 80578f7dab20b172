"""The vector index of a set: what decides it, how it is built beside an old one, and what has
become of it since."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable
from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors.vector_set import VectorSet

_LOCK_TIMEOUT = "5s"

# bytes of a node of pgvector's HNSW graph in memory beside its vector, a little above what
# HnswElementData and twice m HnswCandidates (hnsw.h) take; and of each link, over all layers
_NODE, _LINK = 256, 40


def build(
    tables: EntityTables,
    vector_set: VectorSet,
    settings: dict[str, Any],
    drift: IndexDrift,
) -> None:
    """Build the index beside an old one, then drop that; it is not measured then.

    Searches always have one of the two, and wait for neither.
    """
    name, fresh, old = _names(vector_set)
    # their names are needed; to wait for who uses them is no longer than the build will wait itself
    remove_leftovers(tables, vector_set, patience="0")
    if settings["type"] != "none":
        _use_memory(tables.connection, _graph_bytes(vector_set, settings, drift.rows))
        _use_workers(tables.connection, vector_set)
        tables.execute(
            "create index {concurrently} {fresh} on {table} using {method}"
            " (embedding {opclass}) {options}",
            # readers and writers of a live set go on while it is built
            concurrently=sql.SQL("concurrently" if vector_set.state == "live" else ""),
            fresh=Identifier(fresh),
            table=tables.table(vector_set.table_name),
            method=sql.SQL(settings["type"]),
            opclass=sql.SQL(f"{vector_set.storage}_{settings['metric']}_ops"),
            options=_options(settings),
        )
    with tables.connection.transaction():
        # what is stored of an index always describes the one with its name
        tables.execute(
            "update {vector_sets} set index_settings = %s, index_rows = %s, indexed_at = %s,"
            " recall = null, canary = null where entity = {entity} and number = %s",
            (Jsonb(settings), drift.rows, drift.at, vector_set.number),
        )
        _rename(tables, name, old)
        _rename(tables, fresh, name)
    remove_leftovers(tables, vector_set)


def remove_leftovers(
    tables: EntityTables, vector_set: VectorSet, patience: str | None = None
) -> None:
    """Drop indexes that a build left: one that it did not finish, one that was being replaced.

    Waits little for those who read the set, and leaves it to the next call then; `patience` is
    another lock_timeout.
    """
    _, *leftovers = _names(vector_set)
    timeout = sql.Literal(patience or _LOCK_TIMEOUT)
    for index in leftovers:
        tables.connection.execute(sql.SQL("set lock_timeout = {}").format(timeout))
        with suppress(LockNotAvailable):
            # a plain drop would wait for readers, and new ones for it
            tables.execute(
                "drop index concurrently if exists {index}",
                index=tables.table(index),
            )
        tables.connection.execute("reset lock_timeout")


def _names(vector_set: VectorSet) -> tuple[str, str, str]:
    """The index, the one that will take its place and the one whose place it took."""
    name = index_name(vector_set)
    return name, f"{name}_new", f"{name}_old"


def _rename(tables: EntityTables, name: str, to: str) -> None:
    tables.execute(
        "alter index if exists {name} rename to {to}",
        name=tables.table(name),
        to=Identifier(to),
    )


def _options(settings: dict[str, Any]) -> sql.Composable:
    chosen = [(k, v) for k, v in settings.items() if k in ("m", "ef_construction", "lists")]
    return sql.SQL("with ({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(Identifier(key), sql.Literal(value)) for key, value in chosen
        )
    )


def _graph_bytes(vector_set: VectorSet, settings: dict[str, Any], rows: int) -> int:
    number = 4 if vector_set.storage == "vector" else 2
    links: int = settings.get("m", 0)
    return rows * (vector_set.dimension * number + _NODE + _LINK * links)


def _use_memory(connection: Connection[Row], wanted: int) -> None:
    """An HNSW graph that fits maintenance_work_mem is built many times faster.

    No more than it needs, because a parallel build takes all of it at once. And no more than half
    of the machine, which SQL cannot ask for: shared_buffers is a quarter of it, where somebody
    followed Postgres' manual, and very little where nobody did.
    """
    connection.execute(
        """
        select set_config('maintenance_work_mem', greatest(
            pg_size_bytes(current_setting('maintenance_work_mem')),
            least(pg_size_bytes(current_setting('shared_buffers')) * 2, %s)
        ) / 1024 || 'kB', false)
        """,
        (wanted,),
    )


def _use_workers(connection: Connection[Row], vector_set: VectorSet) -> None:
    """All the parallel workers that the server's owner allows, or half of them where people
    search the set meanwhile; Postgres takes fewer for a small table."""
    connection.execute(
        """
        select set_config('max_parallel_maintenance_workers', greatest(
            current_setting('max_parallel_maintenance_workers')::int,
            current_setting('max_parallel_workers')::int / %s
        )::text, false)
        """,
        (2 if vector_set.state == "live" else 1,),
    )


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
class IndexDrift:
    """The rows of a set at the time `at`, and how many of them were written since another time."""

    rows: int
    fresh: int
    at: datetime

    def share(self, former: int) -> float:
        """The share of the rows that are new, changed or gone, where there were `former` then."""
        gone = former - (self.rows - self.fresh)
        return max(self.fresh, gone) / max(self.rows, former, 1)


def drift(tables: EntityTables, vector_set: VectorSet, since: datetime | None) -> IndexDrift:
    """What was written to a set since a time, or ever."""
    return IndexDrift(
        *tables.one(
            "select count(*), count(*) filter (where updated_at > {since}), clock_timestamp()"
            " from {vectors}",
            since=sql.SQL("coalesce({}::timestamptz, '-infinity')").format(sql.Literal(since)),
            vectors=tables.table(vector_set.table_name),
        )
    )


def index_name(vector_set: VectorSet) -> str:
    """The index that searches of a set use."""
    return f"{vector_set.table_name}_index"


def size(tables: EntityTables, vector_set: VectorSet) -> int | None:
    """The bytes of a set's index; None where there is none that searches can use."""
    row = tables.execute(
        "select pg_relation_size(indexrelid) from pg_index"
        " where indexrelid = to_regclass({index}) and indisvalid",
        index=sql.Literal(tables.table(index_name(vector_set)).as_string(tables.connection)),
    ).fetchone()
    return row[0] if row else None
