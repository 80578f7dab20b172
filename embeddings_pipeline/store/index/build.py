"""The vector index of a set: its settings, its build beside an old one, and its drift since."""

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
from embeddings_pipeline.store.vector_sets import VectorSet

_LOCK_TIMEOUT = "5s"

# bytes of a node of pgvector's HNSW graph in memory, without its vector, and of each link over all
# layers; a little more than HnswElementData and 2 m HnswCandidates take (hnsw.h)
_NODE, _LINK = 256, 40


def build(
    tables: EntityTables,
    vector_set: VectorSet,
    settings: dict[str, Any],
    drift: IndexDrift,
) -> None:
    """Build the index beside an old one, then drop the old one. Does not measure the recall.

    Searches can use one of the two at any time, and wait for neither.
    """
    name, fresh, old = _names(vector_set)
    # the build needs the names of the leftovers; it would wait for their readers anyway
    remove_leftovers(tables, vector_set, patience="0")
    if settings["type"] != "none":
        _use_memory(tables.connection, _graph_bytes(vector_set, settings, drift.rows))
        _use_workers(tables.connection, vector_set)
        tables.execute(
            "create index {concurrently} {fresh} on {table} using {method}"
            " (embedding {opclass}) {options}",
            # readers and writers of a live set do not wait for the build
            concurrently=sql.SQL("concurrently" if vector_set.state == "live" else ""),
            fresh=Identifier(fresh),
            table=tables.table(vector_set.table_name),
            method=sql.SQL(settings["type"]),
            opclass=sql.SQL(f"{vector_set.storage}_{settings['metric']}_ops"),
            options=_options(settings),
        )
    with tables.connection.transaction():
        # the stored settings must always describe the index with the final name
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
    """Drop indexes that a build left: an unfinished one, and one that was replaced.

    Waits for readers of the set for `patience` (a lock_timeout), 5 seconds by default. An index
    that is in use for longer is left to the next call.
    """
    _, *leftovers = _names(vector_set)
    timeout = sql.Literal(patience or _LOCK_TIMEOUT)
    for index in leftovers:
        tables.connection.execute(sql.SQL("set lock_timeout = {}").format(timeout))
        with suppress(LockNotAvailable):
            # a plain drop would wait for readers, and block new ones
            tables.execute(
                "drop index concurrently if exists {index}",
                index=tables.table(index),
            )
        tables.connection.execute("reset lock_timeout")


def _names(vector_set: VectorSet) -> tuple[str, str, str]:
    """The names of the index, of the one being built, and of the one being replaced."""
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

OPERATORS: dict[str, LiteralString] = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}
# the setting for the effort of a search, by index type
EFFORT_SETTINGS: dict[str, LiteralString] = {
    "hnsw": "hnsw.ef_search",
    "ivfflat": "ivfflat.probes",
}


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


def drift(tables: EntityTables, vector_set: VectorSet, since: datetime | None) -> IndexDrift:
    """What was written to a set since a time; None counts all rows."""
    return IndexDrift(
        *tables.one(
            "select count(*), count(*) filter (where updated_at > {since}), clock_timestamp()"
            " from {vectors}",
            since=sql.SQL("coalesce({}::timestamptz, '-infinity')").format(sql.Literal(since)),
            vectors=tables.table(vector_set.table_name),
        )
    )


def index_name(vector_set: VectorSet) -> str:
    """The name of the index that searches of a set use."""
    return f"{vector_set.table_name}_index"


def size(tables: EntityTables, vector_set: VectorSet) -> int | None:
    """The bytes of a set's index; None where there is no valid index."""
    row = tables.execute(
        "select pg_relation_size(indexrelid) from pg_index"
        " where indexrelid = to_regclass({index}) and indisvalid",
        index=sql.Literal(tables.table(index_name(vector_set)).as_string(tables.connection)),
    ).fetchone()
    return row[0] if row else None
