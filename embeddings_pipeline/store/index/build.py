"""The vector index of a set: its settings, its build beside an old one, and its drift since."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable
from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet

LOCK_TIMEOUT = "5s"

# bytes of a node of pgvector's HNSW graph in memory, without its vector, and of each link over all
# layers; a little more than HnswElementData and 2 m HnswCandidates take (hnsw.h)
_NODE, _LINK = 256, 40


class VectorIndex:
    """The vector index of one set."""

    def __init__(self, tables: EntityTables, vector_set: VectorSet) -> None:
        self._tables = tables
        self._set = vector_set
        self._name = f"{vector_set.table_name}_index"
        # the index being built, and the one being replaced
        self._fresh, self._old = f"{self._name}_new", f"{self._name}_old"
        self._vectors = tables.table(vector_set.table_name)

    def build(self, settings: dict[str, Any], drift: IndexDrift) -> None:
        """Build the index beside an old one, then drop the old one. Does not measure the recall.

        Searches can use one of the two at any time, and wait for neither.
        """
        # the build needs the names of the leftovers; it would wait for their readers anyway
        self.remove_leftovers(patience="0")
        if settings["type"] != "none":
            connection = self._tables.connection
            _use_memory(connection, graph_bytes(self._set, settings, drift.rows))
            _use_workers(connection, self._set)
            self._tables.execute(
                "create index {concurrently} {fresh} on {vectors} using {method}"
                " (embedding {opclass}) {options}",
                concurrently=concurrently(self._set),
                fresh=Identifier(self._fresh),
                vectors=self._vectors,
                method=sql.SQL(settings["type"]),
                opclass=sql.SQL(f"{self._set.storage}_{settings['metric']}_ops"),
                options=_options(settings),
            )
        with self._tables.connection.transaction():
            # the stored settings must always describe the index with the final name
            self._tables.execute(
                "update {vector_sets} set index_settings = %s, index_rows = %s, indexed_at = %s,"
                " recall = null, recall_check = null where entity = {entity} and number = %s",
                (Jsonb(settings), drift.rows, drift.at, self._set.number),
            )
            self._rename(self._name, self._old)
            self._rename(self._fresh, self._name)
        self.remove_leftovers()

    def remove_leftovers(self, patience: str | None = None) -> None:
        """Drop indexes that a build left: an unfinished one, and one that was replaced.

        Waits for readers of the set for `patience` (a lock_timeout), 5 seconds by default. An index
        that is in use for longer is left to the next call.
        """
        timeout = sql.Literal(patience or LOCK_TIMEOUT)
        for index in (self._fresh, self._old):
            self._tables.connection.execute(sql.SQL("set lock_timeout = {}").format(timeout))
            with suppress(LockNotAvailable):
                # a plain drop would wait for readers, and block new ones
                self._tables.execute(
                    "drop index concurrently if exists {index}", index=self._tables.table(index)
                )
            # `reset` would take the limit of the role
            self._tables.connection.execute("set lock_timeout = 0")

    def drift(self, since: datetime | None) -> IndexDrift:
        """What was written to the set since a time; None counts all rows."""
        return IndexDrift(
            *self._tables.one(
                "select count(*), count(*) filter (where updated_at > {since}), clock_timestamp()"
                " from {vectors}",
                since=sql.SQL("coalesce({}::timestamptz, '-infinity')").format(sql.Literal(since)),
                vectors=self._vectors,
            )
        )

    def size(self) -> int | None:
        """The bytes of the index; None where there is no valid index."""
        name = self._tables.table(self._name).as_string(self._tables.connection)
        row = self._tables.execute(
            "select pg_relation_size(indexrelid) from pg_index"
            " where indexrelid = to_regclass({index}) and indisvalid",
            index=sql.Literal(name),
        ).fetchone()
        return row[0] if row else None

    def _rename(self, name: str, to: str) -> None:
        self._tables.execute(
            "alter index if exists {name} rename to {to}",
            name=self._tables.table(name),
            to=Identifier(to),
        )


def concurrently(vector_set: VectorSet) -> sql.SQL:
    """The option with which readers and writers of a live set do not wait for a build."""
    return sql.SQL("concurrently" if vector_set.state == "live" else "")


def _options(settings: dict[str, Any]) -> sql.Composable:
    chosen = [(k, v) for k, v in settings.items() if k in ("m", "ef_construction", "lists")]
    return sql.SQL("with ({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(Identifier(key), sql.Literal(value)) for key, value in chosen
        )
    )


def graph_bytes(vector_set: VectorSet, settings: dict[str, Any], rows: int) -> int:
    """The bytes that the HNSW graph of these rows takes in memory during its build."""
    number = 4 if vector_set.storage == "vector" else 2
    links: int = settings.get("m", 0)
    return rows * (vector_set.dimension * number + _NODE + _LINK * links)


def _use_memory(connection: Connection[Row], wanted: int) -> None:
    """Raise maintenance_work_mem: an HNSW graph that fits it is built many times faster.

    Sets at most what the graph needs, because a parallel build allocates all of it at once. Sets at
    most twice shared_buffers. SQL cannot read the memory of the machine; the manual of Postgres
    recommends a quarter of it for shared_buffers, so that twice is half of the machine.
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
    """Use all parallel workers that the server allows, or half of them where searches read the set
    meanwhile. Postgres uses fewer for a small table."""
    connection.execute(
        """
        select set_config('max_parallel_maintenance_workers', greatest(
            current_setting('max_parallel_maintenance_workers')::int,
            current_setting('max_parallel_workers')::int / %s
        )::text, false)
        """,
        (2 if vector_set.state == "live" else 1,),
    )


# the largest m of pgvector
_MAX_M = 100

# the cost of a row visited through an index, relative to a row compared exactly
_INDEX_PRICE = 10


def better_compared(passing: int, total: int, wanted: int) -> bool:
    """Whether comparing all rows that pass a filter is cheaper than using the index.

    Comparing m of n rows costs m units. An index visits k n / m rows to find k of them, at about
    ten units each.
    """
    return passing**2 <= _INDEX_PRICE * wanted * total


def settings_of(index: Index, metric: str, rows: int) -> dict[str, Any]:
    """The settings of an index, as they are stored with the set."""
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
    """The same index with twice the links; None where it has no links, or the maximum.

    Many equal vectors link only to one another, which cuts the graph into islands. More links
    connect the islands.
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
    """IVFFlat lists for a number of rows: rows / 1000, or the square root above a million rows.

    Source: https://github.com/pgvector/pgvector#ivfflat
    """
    return max(1, rows // 1000 if rows <= 1_000_000 else round(math.sqrt(rows)))


@dataclass(frozen=True)
class IndexDrift:
    """The rows of a set at the time `at`, and how many of them (`fresh`) were written since another
    time."""

    rows: int
    fresh: int
    at: datetime

    def share(self, former: int) -> float:
        """The share of rows that are new, changed or gone since there were `former` rows."""
        gone = former - (self.rows - self.fresh)
        return max(self.fresh, gone) / max(self.rows, former, 1)
