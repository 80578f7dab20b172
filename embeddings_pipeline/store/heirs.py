"""Vectors of rows that are about to be deleted, left to rows that say the same.

A row that comes back under another id has its old text: without this it would be encoded again,
because texts and vectors of rows that are gone go before vectors are filled.
"""

from __future__ import annotations

from psycopg import Connection, sql

from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.pending import pending_of
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import filling

# rows written in one transaction
_WINDOW_ROWS = 2_000


def hand_over(connection: Connection[Row], on: Statements, run_id: str) -> int:
    """Give vectors of `gone_rows` to pending rows with an equal text; returns how many.

    Killed half-way it has done no harm: the vectors are those of their rows' texts.
    """
    connection.execute("analyze gone_rows")
    given = 0
    for vector_set in vector_sets.vector_sets(connection, on, ("live", "building")):
        for first in range(0, _find(connection, on, vector_set), _WINDOW_ROWS):
            given += _give(connection, on, vector_set, first, run_id)
    return given


def _find(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> int:
    """Fill the temporary table `heirs`; returns how many there are."""
    connection.execute("drop table if exists heirs")
    connection.execute(
        on.fill(
            """
            create temporary table heirs as
            select row_number() over (order by t.{id}, t.chunk) as n,
                t.{id} as id, t.chunk, t.text_hash
            from {pending}
                and t.text_hash in (
                    select o.text_hash from gone_rows g join {vectors} o on o.{id} = g.id
                )
                and not exists (select from gone_rows g where g.id = t.{id})
            """,
            pending=pending_of(on, vector_set),
            vectors=on.table(vector_set.table_name),
        )
    )
    connection.execute("analyze heirs")
    (found,) = on.one(connection, "select count(*) from heirs")
    return int(found)


def _give(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, first: int, run_id: str
) -> int:
    source = on.fill(
        """
        heirs i
        cross join lateral (
            select o.embedding from {vectors} o
            where o.text_hash = i.text_hash and not exists (
                -- what is being erased leaves nothing
                select from {erasures} e where e.entity = {entity} and e.id = o.{id}::text
            )
            limit 1
        ) f
        join {texts} t on t.{id} = i.id and t.chunk = i.chunk and t.text_hash = i.text_hash
        where i.n > {first} and i.n <= {last}
        """,
        vectors=on.table(vector_set.table_name),
        first=sql.Literal(first),
        last=sql.Literal(first + _WINDOW_ROWS),
    )
    filled = filling(
        on,
        vector_set,
        source,
        embedding=sql.SQL("f.embedding"),
        # the row that it was of is about to be forgotten
        reused_from=sql.SQL("null"),
    )
    return connection.execute(
        on.fill("with {filled} select from written", filled=filled), (run_id,)
    ).rowcount
