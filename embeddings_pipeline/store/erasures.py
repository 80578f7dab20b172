"""The `erasures` table: ids that are never to be stored again, until lifted."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection

from embeddings_pipeline.store import evictions, provenance
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.schema import vector_tables
from embeddings_pipeline.store.statements import Statements


def add(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> None:
    """Note that these ids are erased."""
    connection.execute(
        on.fill(
            "insert into {erasures} (entity, id) select {entity}, unnest(%s::text[])"
            " on conflict do nothing"
        ),
        (list(ids),),
    )


def remove(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> int:
    """Forget that these ids were erased; returns how many were."""
    return connection.execute(
        on.fill("delete from {erasures} where entity = {entity} and id = any(%s)"), (list(ids),)
    ).rowcount


def stored(connection: Connection[Row], on: Statements) -> list[str]:
    """Erased ids of which something is stored: those whose erasing was cut short have a text, and
    a run of another entity may have named one meanwhile."""
    if not _any(connection, on):
        return []
    rows = connection.execute(
        on.fill(
            # few ids are looked up by key in however many texts
            "select t.{id}::text from {texts} t where t.chunk = 0 and t.{id} = any(array("
            "select e.id::{id_type} from {erasures} e where e.entity = {entity}))"
        )
    )
    return sorted({*(row_id for (row_id,) in rows), *provenance.of_erased(connection, on)})


def _any(connection: Connection[Row], on: Statements) -> bool:
    (some,) = on.one(connection, "select exists (select from {erasures} where entity = {entity})")
    return bool(some)


def traces(connection: Connection[Row], on: Statements) -> int:
    """Rows of erased ids that are left in texts, vectors or quarantine, those that other vectors
    name as their origin, and texts that caches have yet to forget; 0 as it should be."""
    name = on.source.entity.name
    found = 0
    for table in (f"{name}_texts", *vector_tables(connection, on.schema, name)):
        (rows,) = on.one(
            connection,
            "select count(*) from {table} where {id} = any(array("
            "select e.id::{id_type} from {erasures} e where e.entity = {entity}))",
            table=on.table(table),
        )
        found += rows
    (rows,) = on.one(
        connection,
        "select count(*) from {quarantine} q join {erasures} e using (entity, id)"
        " where q.entity = {entity}",
    )
    named = len(provenance.of_erased(connection, on))
    return int(found + rows + named + evictions.count(connection, on))
