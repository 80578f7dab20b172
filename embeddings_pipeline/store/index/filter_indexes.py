"""Indexes on the filter columns of a vector set, for an exact search of few matching rows."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.filters import base_type
from embeddings_pipeline.store.index.build import concurrently
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet

# a B-tree rejects values above 2,704 bytes, which texts may have; a hash index takes any value. A
# number or an element of a list that no index holds puts its row in quarantine
_METHODS: dict[str, LiteralString] = {
    **dict.fromkeys(("text", "character varying", "bpchar"), "hash"),
    **dict.fromkeys(("boolean", "smallint", "integer", "bigint", "numeric"), "btree"),
    **dict.fromkeys(("real", "double precision", "uuid", "date"), "btree"),
    **dict.fromkeys(("timestamp without time zone", "timestamp with time zone"), "btree"),
}


def _method(kind: str) -> LiteralString | None:
    """The method of an index on a column of this type; None for a type without one."""
    base = base_type(kind)
    if base.endswith("[]"):
        return "gin" if base.removesuffix("[]") in _METHODS else None
    return _METHODS.get(base)


def ensure(tables: EntityTables, vector_set: VectorSet) -> None:
    """Build missing indexes; a live set is read and written meanwhile."""
    for column, index, valid in _indexes(tables, vector_set):
        method = _method(tables.source.filters[column])
        if valid or method is None:
            continue
        if valid is not None:
            # an interrupted build left the invalid index
            tables.execute(
                "drop index concurrently if exists {index}",
                index=tables.table(index),
            )
        tables.execute(
            "create index {concurrently} if not exists {index} on {table} using {method}"
            " ({column})",
            concurrently=concurrently(vector_set),
            index=Identifier(index),
            table=tables.table(vector_set.table_name),
            method=sql.SQL(method),
            column=Identifier(column),
        )


def _indexes(tables: EntityTables, vector_set: VectorSet) -> list[tuple[str, str, bool | None]]:
    """Each filter, the name of its index, and whether the index is valid (None: it is missing)."""
    # named by the column's number, because a name has at most 63 bytes
    rows = tables.connection.execute(
        """
        select a.attname, name, i.indisvalid
        from pg_attribute a cross join lateral format('%%s_by_%%s', %(table)s::text, a.attnum) name
        left join pg_index i
            on i.indexrelid = to_regclass(format('%%I.%%I', %(schema)s::text, name))
        where a.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
            and a.attname = any(%(filters)s)
        order by a.attnum
        """,
        {
            "schema": tables.schema,
            "table": vector_set.table_name,
            "filters": [*tables.source.filters],
        },
    )
    return [(column, index, valid) for column, index, valid in rows]
