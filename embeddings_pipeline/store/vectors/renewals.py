"""The `renewals` table: `run --force` records a floor, and texts below it are encoded again."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors.cache import next_version
from embeddings_pipeline.store.vectors.pending import chunk_states


def begin(
    tables: EntityTables, vector_sets: Sequence[VectorSet], keys: Sequence[str] | None
) -> None:
    """Record a floor above all existing versions, for each set; or continue an unfinished renewal
    of the same partitions."""
    if any(is_unfinished(tables, vector_set, keys) for vector_set in vector_sets):
        return
    floor = next_version(tables.connection, tables.schema)
    for vector_set in vector_sets:
        tables.execute(
            "insert into {renewals} (entity, vector_set, floor, partition_keys)"
            " values ({entity}, %s, %s, %s)",
            (vector_set.number, floor, _sorted(keys)),
        )


def is_unfinished(tables: EntityTables, vector_set: VectorSet, keys: Sequence[str] | None) -> bool:
    """Whether a set has an unfinished renewal of exactly these partitions."""
    (found,) = tables.one(
        "select exists (select from {renewals} where entity = {entity}"
        " and vector_set = %s and partition_keys is not distinct from %s::text[])",
        (vector_set.number, _sorted(keys)),
    )
    return bool(found)


def end_finished(tables: EntityTables, vector_set: VectorSet) -> None:
    """Remove the renewals of a set that have nothing left to encode below their floor."""
    if tables.one(
        "select not exists (select from {renewals} where entity = {entity} and vector_set = %s)",
        (vector_set.number,),
    ) == (True,):
        return
    tables.execute(
        """
        delete from {renewals} r where r.entity = {entity} and r.vector_set = {number}
            and not exists (
                select from ({states}) as s where s.pending and s.outdated
                    and (r.partition_keys is null or s.partition_key = any(r.partition_keys))
            )
        """,
        number=Literal(vector_set.number),
        states=chunk_states(tables.names, vector_set),
    )


def _sorted(keys: Sequence[str] | None) -> list[str] | None:
    return None if keys is None else sorted(keys)


def as_planned(keys: Sequence[str] | None, floor: int) -> sql.Composable:
    """The row of `renewals` that a planned forced run would add."""
    return sql.SQL("values ({}::bigint, {}::text[])").format(Literal(floor), Literal(_sorted(keys)))
