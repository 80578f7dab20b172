"""The partition of each text, and the record of the passes over the partitions."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import Identifier, Literal
from psycopg.types.json import Jsonb

from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.store.staging.columns import hash_key
from embeddings_pipeline.store.tables import EntityTables


def scheme_changed(tables: EntityTables) -> bool:
    """Whether the stored partition keys follow another scheme; False before the first pass."""
    row = tables.execute(
        "select partition_scheme from {entities} where entity = {entity}"
    ).fetchone()
    return row is not None and row[0] != tables.source.entity.partitions.model_dump_json()


def rekey(tables: EntityTables) -> int:
    """Compute the partition keys again where the scheme changed; returns how many rows moved.

    A scheme by day is part of the definition hash, so that the pass renders each row again, with
    its new key.
    """
    if not scheme_changed(tables):
        return 0
    partitions = tables.source.entity.partitions
    moved = 0
    with tables.connection.transaction():
        if isinstance(partitions, HashPartitions):
            (moved,) = tables.one(
                """
                with moved as (
                    update {texts} set partition_key = {key} where partition_key <> {key}
                    returning chunk
                )
                select count(*) filter (where chunk = 0) from moved
                """,
                key=hash_key(tables.source, partitions, Identifier(tables.source.entity.id)),
            )
        tables.execute(
            "update {entities} set partition_scheme = %s where entity = {entity}",
            (partitions.model_dump_json(),),
        )
    return moved


def follow_definition(tables: EntityTables) -> bool:
    """Whether all texts follow the current declaration, columns and partition scheme."""
    row = tables.execute(
        "select definition_hash, partition_scheme from {entities} where entity = {entity}"
    ).fetchone()
    scheme = tables.source.entity.partitions.model_dump_json()
    return row == (tables.source.definition_hash, scheme)


def begin_pass(tables: EntityTables, *, writes: bool) -> bool:
    """Record that a pass has begun, where it `writes`; returns whether an earlier pass was not
    finished."""
    (unfinished,) = tables.one(
        "select last_pass_at is null from {entities} where entity = {entity}"
    )
    if writes and not unfinished:
        tables.execute("update {entities} set last_pass_at = null where entity = {entity}")
    return bool(unfinished)


def finish_pass(tables: EntityTables, keys: Sequence[str] | None, *, analyze: bool) -> None:
    """Record that a pass over these partitions, or all, is finished, and which declaration their
    texts follow. `analyze` refreshes the statistics.

    The entity follows a new declaration once all its partitions do.
    """
    if keys is None:
        _follow(tables)
    else:
        done = {"definition": tables.source.definition_hash}
        tables.execute(
            """
            update {entities} set passes = passes || (
                select jsonb_object_agg(key, %s || jsonb_build_object('at', clock_timestamp()))
                from unnest(%s::text[]) as key
            ), last_pass_at = clock_timestamp() where entity = {entity}
            """,
            (Jsonb(done), list(keys)),
        )
        (followed,) = tables.one(
            """
            select e.definition_hash <> {wanted} and not exists (
                select from (select distinct partition_key from {texts}) as t
                where e.passes->t.partition_key->>'definition' is distinct from {wanted}
            ) from {entities} e where entity = {entity}
            """,
            wanted=Literal(tables.source.definition_hash),
        )
        if followed:
            _follow(tables)
    if analyze:
        tables.execute("vacuum (analyze) {texts}")


def _follow(tables: EntityTables) -> None:
    tables.execute(
        "update {entities} set definition = %s, definition_hash = %s, passes = '{{}}',"
        " last_pass_at = clock_timestamp() where entity = {entity}",
        (tables.source.entity.declaration(), tables.source.definition_hash),
    )
