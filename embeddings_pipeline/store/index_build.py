"""Builds the vector index of a set, beside an old one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable
from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from embeddings_pipeline.store.indexes import Wear, index_name
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vectors.vector_set import VectorSet

_LOCK_TIMEOUT = "5s"

# bytes of a node of pgvector's HNSW graph in memory beside its vector, a little above what
# HnswElementData and twice m HnswCandidates (hnsw.h) take; and of each link, over all layers
_NODE, _LINK = 256, 40


def build(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    settings: dict[str, Any],
    wear: Wear,
) -> None:
    """Build the index beside an old one, then drop that; it is not measured then.

    Searches always have one of the two, and wait for neither.
    """
    name, fresh, old = _names(vector_set)
    # their names are needed; to wait for who uses them is no longer than the build will wait itself
    remove_leftovers(connection, on, vector_set, patience="0")
    if settings["type"] != "none":
        _use_memory(connection, _graph_bytes(vector_set, settings, wear.rows))
        _use_workers(connection, vector_set)
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
        # what is stored of an index always describes the one with its name
        connection.execute(
            on.fill(
                "update {vector_sets} set index_settings = %s, index_rows = %s, indexed_at = %s,"
                " recall = null, canary = null where entity = {entity} and number = %s"
            ),
            (Jsonb(settings), wear.rows, wear.at, vector_set.number),
        )
        _rename(connection, on, name, old)
        _rename(connection, on, fresh, name)
    remove_leftovers(connection, on, vector_set)


def remove_leftovers(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, patience: str | None = None
) -> None:
    """Drop indexes that a build left: one that it did not finish, one that was being replaced.

    Waits little for those who read the set, and leaves it to the next call then; `patience` is
    another lock_timeout.
    """
    _, *leftovers = _names(vector_set)
    timeout = sql.Literal(patience or _LOCK_TIMEOUT)
    for index in leftovers:
        connection.execute(sql.SQL("set lock_timeout = {}").format(timeout))
        with suppress(LockNotAvailable):
            # a plain drop would wait for readers, and new ones for it
            connection.execute(
                on.fill("drop index concurrently if exists {index}", index=on.table(index))
            )
        connection.execute("reset lock_timeout")


def _names(vector_set: VectorSet) -> tuple[str, str, str]:
    """The index, the one that will take its place and the one whose place it took."""
    name = index_name(vector_set)
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
