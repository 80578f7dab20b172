"""What lacks a vector, or has one of another text: found once for a run, read by windows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg import Connection, sql

from embeddings_pipeline.store.failures import left_alone
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet


class Pending(NamedTuple):
    """A chunk whose vector is missing or of another text. The id is text, whatever its type."""

    id: str
    chunk: int
    text: str
    parts: list[str] | None
    weights: list[float] | None
    text_hash: bytes

    @property
    def inputs(self) -> list[str]:
        """What a model is given: the text, or each of its weighted parts by itself."""
        return self.parts or [self.text]


@dataclass(frozen=True)
class Backlog:
    """What `find_pending` found: chunks, the windows they are in, and their partitions, sorted."""

    chunks: int
    windows: int
    keys: list[str]


def find_pending(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    keys: Sequence[str] | None,
    ids: Sequence[str] | None = None,
    *,
    besides: Sequence[str] = (),
    max_rows: int,
    max_tokens: int,
    renew: datetime | None = None,
) -> Backlog:
    """Fill the temporary table `pending_rows` with the windows to encode, in order.

    A window holds whole rows, at most `max_rows` of them, and ends with the row that takes it
    past `max_tokens`. Without `keys` it looks into every partition but those `besides`, without
    `ids` at every row. With `renew` a vector that was not written since then is encoded again.
    """
    connection.execute("drop table if exists pending_rows")
    rows = on.fill(
        """
            select t.partition_key, t.{id} as id, t.chunk, t.text_hash, t.tokens
            from {pending} {of_keys} {of_ids} {but_keys}
            """,
        pending=pending_of(on, vector_set, renew),
        of_keys=sql.SQL("")
        if keys is None
        else sql.SQL("and t.partition_key = any({})").format(sql.Literal(list(keys))),
        of_ids=sql.SQL("")
        if ids is None
        else on.fill("and t.{id} = any({chosen}::{id_type}[])", chosen=sql.Literal(list(ids))),
        but_keys=sql.SQL("and t.partition_key <> all({}::text[])").format(
            sql.Literal(list(besides))
        ),
    )
    connection.execute(
        sql.SQL("create temporary table pending_rows as {}").format(
            in_windows(rows, max_rows=max_rows, max_tokens=max_tokens)
        )
    )
    connection.execute("create index on pending_rows (in_window)")
    connection.execute("analyze pending_rows")
    return Backlog(
        *on.one(
            connection,
            "select count(*), coalesce(max(in_window), 0), coalesce(array_agg(distinct"
            " partition_key order by partition_key), '{{}}') from pending_rows",
        )
    )


def in_windows(
    rows: sql.Composable, *, max_rows: int, max_tokens: int, first: Sequence[str] = ()
) -> sql.Composable:
    """These rows of texts with their place `n` in the order of a run, the partitions `first` before
    the others, and their window."""
    return sql.SQL(
        """
        select partition_key, id, chunk, text_hash, tokens, n,
            dense_rank() over (order by (n - 1) / {max_rows}, upto / {max_tokens}) as in_window
        from (
            select *, dense_rank() over by_row as n, sum(tokens) over by_row as upto
            from ({rows}) as r
            window by_row as (order by partition_key <> all({first}::text[]), partition_key, id)
        ) as missing
        """
    ).format(
        rows=rows,
        max_rows=sql.Literal(max_rows),
        max_tokens=sql.Literal(max_tokens),
        first=sql.Literal(list(first)),
    )


def read_window(connection: Connection[Row], on: Statements, window: int) -> list[Pending]:
    """The texts of one window, less those that changed or went since `find_pending`."""
    rows = connection.execute(
        on.fill(
            """
            select t.{id}::text, t.chunk, t.text, t.parts, t.weights, t.text_hash
            from pending_rows p
            join {texts} t on t.{id} = p.id and t.chunk = p.chunk and t.text_hash = p.text_hash
            where p.in_window = %s
            order by p.n, t.chunk
            """
        ),
        (window,),
    )
    return [Pending(*row) for row in rows]


def settled(
    connection: Connection[Row], on: Statements, chunks: Collection[tuple[str, int]]
) -> None:
    """Leave these (id, chunk) out of the windows that are yet to be read."""
    connection.execute(
        on.fill(
            "delete from pending_rows p using unnest(%s::{id_type}[], %s::int[]) as s (id, chunk)"
            " where p.id = s.id and p.chunk = s.chunk"
        ),
        ([row_id for row_id, _ in chunks], [chunk for _, chunk in chunks]),
    )


def pending_of(
    on: Statements, vector_set: VectorSet | None, renew: datetime | None = None
) -> sql.Composable:
    """`<texts as t …> where <the vector is missing, of another text or to be renewed>`."""
    return on.fill(
        """
        {texts} t left join {vectors} v on v.{id} = t.{id} and v.chunk = t.chunk
        where t.text_hash is not null and (v.text_hash is distinct from t.text_hash or {stale})
        and not {left_alone}
        """,
        vectors=on.vectors(vector_set.table_name if vector_set else None),
        stale=stale(renew),
        left_alone=left_alone(on, vector_set, "t"),
    )


def stale(renew: datetime | None) -> sql.Composable:
    """Whether a vector `v` is to be made anew, by a forced run."""
    # where there is no set yet, `v` has no such column
    return sql.SQL("v.embedded_at < {}").format(sql.Literal(renew)) if renew else sql.SQL("false")
