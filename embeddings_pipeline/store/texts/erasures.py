"""The `erasures` table: ids that are never to be stored again, until lifted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from embeddings_pipeline.store.schema import vector_tables
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors import cache


def add(tables: EntityTables, ids: Sequence[str]) -> None:
    """Note that these ids are erased."""
    tables.execute(
        "insert into {erasures} (entity, id) select {entity}, unnest(%s::text[])"
        " on conflict do nothing",
        (list(ids),),
    )


def remove(tables: EntityTables, ids: Sequence[str]) -> int:
    """Forget that these ids were erased; returns how many were."""
    return tables.execute(
        "delete from {erasures} where entity = {entity} and id = any(%s)", (list(ids),)
    ).rowcount


def of_ids(tables: EntityTables, ids: Sequence[str]) -> dict[str, datetime]:
    """When these ids were erased, those that were."""
    rows = tables.execute(
        "select id, erased_at from {erasures} where entity = {entity} and id = any(%s)",
        (list(ids),),
    )
    return dict(rows.fetchall())


def stored(tables: EntityTables) -> list[str]:
    """Erased ids that have a text: whoever erased them was stopped in the middle."""
    rows = tables.execute(
        # few ids are looked up by key in however many texts
        "select t.{id}::text from {texts} t where t.chunk = 0 and t.{id} = any(array("
        "select e.id::{id_type} from {erasures} e where e.entity = {entity}))"
    )
    return [row_id for (row_id,) in rows]


def traces(tables: EntityTables) -> int:
    """Rows of erased ids that are left in texts, vectors or quarantine, and texts that caches have
    yet to forget; 0 as it should be."""
    found = cache.erased_left(tables)
    for table in (
        f"{tables.entity}_texts",
        *vector_tables(tables.connection, tables.schema, tables.entity),
    ):
        (rows,) = tables.one(
            "select count(*) from {table} where {id} = any(array("
            "select e.id::{id_type} from {erasures} e where e.entity = {entity}))",
            table=tables.table(table),
        )
        found += rows
    (rows,) = tables.one(
        "select count(*) from {quarantine} q join {erasures} e using (entity, id)"
        " where q.entity = {entity}"
    )
    return int(found + rows)
