"""The `erasures` table: erased ids, which are not stored again until the erasure is lifted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts import candidates


def add(tables: EntityTables, ids: Sequence[str]) -> None:
    """Record that these ids are erased."""
    tables.execute(
        "insert into {erasures} (entity, id) select {entity}, unnest(%s::text[])"
        " on conflict do nothing",
        (list(ids),),
    )


def remove(tables: EntityTables, ids: Sequence[str]) -> int:
    """Lift the erasure of these ids; returns how many of them were erased."""
    return tables.execute(
        "delete from {erasures} where entity = {entity} and id = any(%s)", (list(ids),)
    ).rowcount


def of_ids(tables: EntityTables, ids: Sequence[str]) -> dict[str, datetime]:
    """When each of these ids was erased; ids that were not erased are left out."""
    rows = tables.execute(
        "select id, erased_at from {erasures} where entity = {entity} and id = any(%s)",
        (list(ids),),
    )
    return dict(rows.fetchall())


def stored(tables: EntityTables) -> list[str]:
    """Erased ids that still have a text, because the erasure was interrupted."""
    rows = tables.execute(
        # an array of a few ids makes the planner look them up by key
        "select t.{id}::text from {texts} t where t.chunk = 0 and t.{id} = any(array("
        "select e.id::{id_type} from {erasures} e where e.entity = {entity}))"
    )
    return [row_id for (row_id,) in rows]


def count_remains(tables: EntityTables) -> int:
    """Rows of erased ids that remain in texts, vectors or quarantine, and hashes that remain in
    caches; 0 where every erasure is complete."""
    found = candidates.count_erased(tables)
    for table in (
        f"{tables.entity}_texts",
        *vector_sets.table_names(tables.connection, tables.schema, tables.entity),
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
