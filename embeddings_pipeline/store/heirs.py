"""Vectors whose rows say something else by now, or are gone, left to rows that say the same.

Texts move from row to row, under ids that are positions all of them; a row that comes back under
another id has its old text, and a chunk that its row has no more may be another's. Without this
they would be encoded again: what is gone is deleted before vectors are filled, and what moved is
written over by a run that may be of some partitions, or be killed.
"""

from __future__ import annotations

from psycopg import Connection, sql

from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.forcing import renewed
from embeddings_pipeline.store.pending import pending_of
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import fill

# rows written in one transaction: killed in it, a pass has lost nothing, killed between two it has
# lost what the first wrote over
_WINDOW_ROWS = 20_000


def keep_trimmed(connection: Connection[Row]) -> None:
    """Let `texts.write` leave in `trimmed`, which ends with the session, the vectors of chunks that
    their rows have no more."""
    connection.execute(
        "create temporary table trimmed"
        " (table_name text, text_hash bytea, embedding vector, said_by text)"
    )


def hand_over(connection: Connection[Row], on: Statements, run_id: str) -> int:
    """Give vectors of `gone_rows`, of `trimmed` chunks and of rows that wait for another to pending
    rows with an equal text; returns how many, but for retired sets.

    Killed half-way it has done no harm: the vectors are those of their rows' texts.
    """
    if not _may_leave_some(connection):
        return 0
    connection.execute("create index on pg_temp.trimmed (text_hash)")
    connection.execute("analyze gone_rows")
    given = 0
    # a retired set lends, too, to one that is made anew of its model
    for vector_set in vector_sets.vector_sets(connection, on, ("live", "building", "retired")):
        for first in range(0, _find(connection, on, vector_set), _WINDOW_ROWS):
            rows = _give(connection, on, vector_set, first, run_id)
            given += rows if vector_set.state != "retired" else 0
    return given


def find_planned(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> None:
    """Fill the temporary table `inheriting` with the rows of `wanting`, which says what the set
    will lack, that `hand_over` will give a vector."""
    connection.execute("drop table if exists inheriting")
    connection.execute(
        on.fill(
            """
            create temporary table inheriting as
            select * from wanting where {may_leave} and text_hash in (
                select v.text_hash from gone_rows g join {vectors} v on v.{id} = g.id
                union all
                select v.text_hash from wanting w
                join {vectors} v on v.{id} = w.id and v.chunk = w.chunk
                union all
                select v.text_hash from changed_rows c join {vectors} v on v.{id} = c.id
                where not exists (
                    select from planned p
                    where p.id = v.{id} and p.chunk = v.chunk and p.text_hash is not null
                )
            )
            """,
            may_leave=sql.Literal(_may_leave_some(connection)),
            vectors=_lent(on, vector_set),
        )
    )


def _lent(on: Statements, vector_set: VectorSet) -> sql.Composable:
    """The vectors of a set; until a forced run is finished, those that it has renewed."""
    if vector_set.force_since:
        return renewed(on, vector_set, vector_set.force_since).table
    return on.table(vector_set.table_name)


def _may_leave_some(connection: Connection[Row]) -> bool:
    row = connection.execute(
        "select exists (table gone_rows) or exists (select from changed_rows where not is_new)"
    ).fetchone()
    return bool(row and row[0])


def _find(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> int:
    """Fill the temporary table `heirs`; returns how many there are.

    Rows that wait for a vector have one of their former text, which another may be waiting for:
    before it is written over it is set aside like those of chunks that are no more.
    """
    connection.execute("drop table if exists waiting, heirs")
    names = {
        "vectors": _lent(on, vector_set),
        "table_name": sql.Literal(vector_set.table_name),
    }
    for statement in (
        """
        create temporary table waiting as
        select t.{id} as id, t.chunk, t.text_hash from {pending}
            and not exists (select from gone_rows g where g.id = t.{id})
        """,
        "analyze waiting",
        """
        insert into pg_temp.trimmed
        select {table_name}, v.text_hash, v.embedding, {entity} || '/' || w.id || '/' || w.chunk
        from waiting w join {vectors} v on v.{id} = w.id and v.chunk = w.chunk
        where v.text_hash in (select text_hash from waiting)
        """,
        "analyze pg_temp.trimmed",
        """
        create temporary table heirs as
        select row_number() over (order by id, chunk) as n, id, chunk, text_hash from waiting
        where text_hash in (
            select o.text_hash from gone_rows g join {vectors} o on o.{id} = g.id
            union all
            select o.text_hash from pg_temp.trimmed o where o.table_name = {table_name}
        )
        """,
        "analyze heirs",
    ):
        connection.execute(on.fill(statement, pending=pending_of(on, vector_set), **names))
    (found,) = on.one(connection, "select count(*) from heirs")
    return int(found)


def _give(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, first: int, run_id: str
) -> int:
    source = on.fill(
        """
        heirs i
        cross join lateral (
            -- a row that is gone is about to be forgotten
            select o.embedding::vector, case when not exists (
                select from gone_rows g where g.id = o.{id}
            ) then {entity} || '/' || o.{id} || '/' || o.chunk end as said_by
            from {vectors} o
            where o.text_hash = i.text_hash and not exists (
                -- what is being erased leaves nothing
                select from {erasures} e where e.entity = {entity} and e.id = o.{id}::text
            )
            union all
            select o.embedding, o.said_by from pg_temp.trimmed o
            where o.table_name = {table_name} and o.text_hash = i.text_hash
            limit 1
        ) f
        join {texts} t on t.{id} = i.id and t.chunk = i.chunk and t.text_hash = i.text_hash
        where i.n > {first} and i.n <= {last}
        """,
        vectors=_lent(on, vector_set),
        table_name=sql.Literal(vector_set.table_name),
        first=sql.Literal(first),
        last=sql.Literal(first + _WINDOW_ROWS),
    )
    return fill(
        *(connection, on, vector_set, source, run_id),
        embedding=sql.SQL("f.embedding"),
        reused_from=sql.SQL("f.said_by"),
    )
