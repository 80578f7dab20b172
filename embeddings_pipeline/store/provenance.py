"""`reused_from` of the vectors: entity/id/chunk, from where a vector was taken over.

It names rows of the entity beside the vectors of other rows, also of other entities, and is
forgotten with them: an id may be a person's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from psycopg import Connection, sql
from psycopg.errors import UndefinedTable
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.schema import vector_tables
from embeddings_pipeline.store.statements import Statements

# an id may have slashes in it, a chunk has none
_NAMED_ROW = sql.SQL("regexp_replace(reused_from, '/[0-9]+$', '')")


def create_index(connection: Connection[Row], on: Statements, table: str) -> None:
    """Let the vectors that were taken over from a row be found."""
    connection.execute(
        on.fill(
            "create index {index} on {table} ({row}) where reused_from is not null",
            index=Identifier(f"{table}_by_origin"),
            table=on.table(table),
            row=sql.SQL("({})").format(_NAMED_ROW),
        )
    )


def forget(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> None:
    """Say of no vector any more that it was taken over from these rows of the entity."""
    named = [f"{on.source.entity.name}/{row_id}" for row_id in ids]
    own = vector_tables(connection, on.schema, on.source.entity.name)
    for table in own:
        _forget_in(connection, on, table, named)
    for table in _tables(connection, on):
        if table not in own:
            # another entity's set may be dropped by now
            with suppress(UndefinedTable), connection.transaction():
                _forget_in(connection, on, table, named)


def _forget_in(
    connection: Connection[Row], on: Statements, table: str, named: Sequence[str]
) -> None:
    connection.execute(
        on.fill(
            "update {table} set reused_from = null"
            " where reused_from is not null and {row} = any(%s)",
            table=on.table(table),
            row=_NAMED_ROW,
        ),
        (list(named),),
    )


def of_erased(connection: Connection[Row], on: Statements) -> list[str]:
    """Erased ids of the entity that vectors still name."""
    found: set[str] = set()
    for table in _tables(connection, on):
        # a set may be dropped by now
        with suppress(UndefinedTable):
            rows = connection.execute(
                on.fill(
                    "select distinct substr({row}, length({entity}) + 2) from {table}"
                    " where reused_from is not null and {row} = any(array("
                    "select {entity} || '/' || e.id from {erasures} e where e.entity = {entity}))",
                    table=on.table(table),
                    row=_NAMED_ROW,
                )
            )
            found.update(row_id for (row_id,) in rows)
    return sorted(found)


def _tables(connection: Connection[Row], on: Statements) -> list[str]:
    """The vectors of every entity."""
    rows = connection.execute(on.fill("select table_name from {vector_sets} order by 1"))
    return [name for (name,) in rows]
