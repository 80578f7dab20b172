"""Vectors taken over from sets of the same model that have an equal text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from psycopg import Connection, sql
from psycopg.errors import UndefinedTable
from psycopg.sql import Identifier

from embeddings_pipeline.store.pending import Pending
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin, VectorSet
from embeddings_pipeline.store.vectors import filling


def reuse(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    origins: Sequence[Origin],
    window: Sequence[Pending],
    run_id: str,
) -> set[tuple[str, int]]:
    """Fill what can be filled from vectors of the same text and model; returns (id, chunk)."""
    done: set[tuple[str, int]] = set()
    for origin in origins:
        left = [p for p in window if (p.id, p.chunk) not in done]
        if not left:
            break
        # a set that would have lent may be dropped by now
        with suppress(UndefinedTable):
            done |= _take_over(connection, on, vector_set, origin, left, run_id)
    return done


def at_hand(
    connection: Connection[Row], on: Statements, origins: Sequence[Origin], hashes: Iterable[bytes]
) -> set[bytes]:
    """Those of these texts' hashes for which `reuse` would find a vector."""
    wanted, found = set(hashes), set[bytes]()
    for origin in origins:
        with suppress(UndefinedTable):
            rows = connection.execute(
                on.fill(
                    "select distinct text_hash from {table} o where text_hash = any(%s)",
                    table=origin.table,
                ),
                ([*(wanted - found)],),
            )
            found.update(text_hash for (text_hash,) in rows)
    return found


def set_aside(connection: Connection[Row], on: Statements, vectors: sql.Composable) -> list[Origin]:
    """Copy those of a set's vectors that its windows will overwrite and that a pending text wants.

    Texts that move from row to row, as under ids that are positions, would else be gone before
    the window that wants them. Empty where none move. The copy ends with the session, so that what
    wants it is settled first: `windows_of_moved` has it.
    """
    connection.execute("drop table if exists set_aside")
    connection.execute(
        on.fill(
            """
            create temporary table set_aside as
            select distinct on (v.text_hash) v.{id}, v.chunk, v.text_hash, v.embedding
            from pending_rows o
            join {vectors} v on v.{id} = o.id and v.chunk = o.chunk
            where v.text_hash in (select text_hash from pending_rows)
            """,
            vectors=vectors,
        )
    )
    connection.execute("create index on set_aside (text_hash)")
    connection.execute("analyze set_aside")
    (wanted,) = on.one(connection, "select exists (select from set_aside)")
    entity = on.source.entity
    copy = Origin(entity.name, entity.id, Identifier("pg_temp", "set_aside"))
    return [copy] if wanted else []


def windows_of_moved(connection: Connection[Row]) -> list[int]:
    """The windows of `pending_rows` in which texts are whose vectors were set aside."""
    rows = connection.execute(
        "select distinct in_window from pending_rows"
        " where text_hash in (select text_hash from set_aside) order by 1"
    )
    return [window for (window,) in rows]


def _take_over(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    origin: Origin,
    window: Sequence[Pending],
    run_id: str,
) -> set[tuple[str, int]]:
    rows = connection.execute(
        on.fill(
            """
            with wanted as (
                select * from unnest(%s::{id_type}[], %s::int[], %s::bytea[])
                    as w ({id}, chunk, text_hash)
            ),
            found as (
                select distinct on (text_hash) text_hash, embedding,
                    {origin} || '/' || {origin_id}::text || '/' || chunk as reused_from
                from {origin_table} o where text_hash in (select text_hash from wanted)
            ),
            {filled}
            select id, chunk from written
            """,
            origin=sql.Literal(origin.entity),
            origin_id=Identifier(origin.id_column),
            origin_table=origin.table,
            filled=filling(
                on,
                vector_set,
                on.fill(
                    "wanted i join found f on f.text_hash = i.text_hash join {texts} t"
                    " on t.{id} = i.{id} and t.chunk = i.chunk and t.text_hash = i.text_hash"
                ),
                embedding=sql.SQL("f.embedding"),
                reused_from=sql.SQL("f.reused_from"),
            ),
        ),
        (
            [p.id for p in window],
            [p.chunk for p in window],
            [p.text_hash for p in window],
            run_id,
        ),
    )
    return {(row_id, chunk) for row_id, chunk in rows}
