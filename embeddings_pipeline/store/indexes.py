"""The vector index of a set: built after the load, beside an old one."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet

# the most links a node that pgvector takes
_MAX_M = 100
_LOCK_TIMEOUT = "5s"

OPERATORS: dict[str, LiteralString] = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}


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
    if settings["type"] != "hnsw" or settings["m"] >= _MAX_M:
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


def build(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    settings: dict[str, Any],
) -> None:
    """Build the index beside an old one, then drop that.

    Searches always have one of the two, and wait for neither.
    """
    name, fresh, old = _names(vector_set)
    remove_leftovers(connection, on, vector_set)
    if settings["type"] != "none":
        _use_memory(connection)
        connection.execute(
            on.fill(
                "create index {concurrently} {fresh} on {table} using {method}"
                " (embedding {opclass}) {options}",
                # readers and writers of a live set go on while it is built
                concurrently=sql.SQL("concurrently" if vector_set.state == "live" else ""),
                fresh=Identifier(fresh),
                table=on.table(vector_set.table_name),
                method=sql.SQL(settings["type"]),
                opclass=sql.SQL(f"{vector_set.storage}_{settings['metric']}_ops"),
                options=_options(settings),
            )
        )
    with connection.transaction():
        # what is stored of an index describes the one with its name, or none
        connection.execute(
            on.fill(
                "update {vector_sets} set index_settings = null"
                " where entity = {entity} and number = %s"
            ),
            (vector_set.number,),
        )
        _rename(connection, on, name, old)
        _rename(connection, on, fresh, name)
    remove_leftovers(connection, on, vector_set)


def remove_leftovers(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> None:
    """Drop indexes that a build left: one that it did not finish, one that was being replaced.

    Waits little for those who read the set, and leaves it to the next call then.
    """
    _, *leftovers = _names(vector_set)
    for index in leftovers:
        connection.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        with suppress(LockNotAvailable):
            # a plain drop would wait for readers, and new ones for it
            connection.execute(
                on.fill("drop index concurrently if exists {index}", index=on.table(index))
            )
        connection.execute("reset lock_timeout")


def _names(vector_set: VectorSet) -> tuple[str, str, str]:
    """The index, the one that will take its place and the one whose place it took."""
    name = f"{vector_set.table_name}_index"
    return name, f"{name}_new", f"{name}_old"


def _rename(connection: Connection[Row], on: Statements, name: str, to: str) -> None:
    connection.execute(
        on.fill(
            "alter index if exists {name} rename to {to}", name=on.table(name), to=Identifier(to)
        )
    )


def _options(settings: dict[str, Any]) -> sql.Composable:
    chosen = [(k, v) for k, v in settings.items() if k in ("m", "ef_construction", "lists")]
    return sql.SQL("with ({})").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(Identifier(key), sql.Literal(value)) for key, value in chosen
        )
    )


def _use_memory(connection: Connection[Row]) -> None:
    """An HNSW graph that fits maintenance_work_mem is built many times faster."""
    connection.execute(
        """
        select set_config('maintenance_work_mem', greatest(
            pg_size_bytes(current_setting('maintenance_work_mem')),
            least(pg_size_bytes(current_setting('shared_buffers')) * 2, 2147483647)
        ) / 1024 || 'kB', false)
        """
    )
