"""Counts of the stored state for checks, status and plots, and the `entity_coverage` view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors.pending import states_of
from embeddings_pipeline.store.vectors.vector_set import VectorSet

# a random but stable order of chunks, by an index of `texts`; a limit follows
SAMPLED: LiteralString = (
    "select {id}, chunk from {texts} where text_hash is not null order by text_hash"
)
_NORM_SAMPLE = 10_000
_NORM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class PartitionCoverage:
    """One partition: `rows` have a text, and `covered` of them have vectors of all their chunks.

    `pending`, `missing` and `quarantined` count chunks as `store.vectors.pending` defines them, but
    `missing` excludes quarantined chunks.
    """

    partition_key: str
    rows: int
    covered: int
    chunks: int
    vectors: int
    pending: int
    quarantined: int
    missing: int
    oldest_pending_seconds: int | None


@dataclass(frozen=True)
class TextCounts:
    """Rows without text, rows that failed to render, and chunks longer than the model reads."""

    without_text: int
    failed: int
    truncated: int


def coverage(tables: EntityTables, vector_set: VectorSet | None) -> list[PartitionCoverage]:
    """Coverage of each partition that has texts, in order. Without a set no row is covered."""
    rows = tables.execute(
        """
        select
            partition_key,
            count(*),
            count(*) filter (where missing = 0),
            sum(chunks)::bigint,
            sum(chunks - missing)::bigint,
            sum(pending)::bigint,
            sum(quarantined)::bigint,
            sum(absent)::bigint,
            extract(epoch from clock_timestamp() - min(since))::bigint
        from (
            select
                s.partition_key,
                count(*) as chunks,
                count(*) filter (where s.missing) as missing,
                count(*) filter (where s.pending) as pending,
                count(*) filter (where s.quarantined and (s.missing or s.outdated)) as quarantined,
                count(*) filter (where s.missing and not s.quarantined) as absent,
                min(s.changed_at) filter (where s.pending) as since
            from {states} s
            group by s.partition_key, s.{id}
        ) as by_row
        group by partition_key order by partition_key
        """,
        states=states_of(tables.names, vector_set),
    )
    return [PartitionCoverage(*row) for row in rows]


def orphans(tables: EntityTables, vector_set: VectorSet) -> int:
    """How many vectors have no row or chunk."""
    (count,) = tables.one(
        "select count(*) from {vectors} v where not exists (select from {texts} t"
        " where t.{id} = v.{id} and t.chunk = v.chunk and t.text_hash is not null)",
        vectors=tables.table(vector_set.table_name),
    )
    return int(count)


def shown_and_lost(tables: EntityTables, live: VectorSet, other: VectorSet) -> tuple[int, int]:
    """How many rows have a vector in the live set, and how many of these have none in the other."""
    shown, lost = tables.one(
        """
        select count(*), count(*) filter (where not kept)
        from (
            select {id}, bool_or(o.chunk is not null) as kept
            from {live} l left join {other} o using ({id}, chunk)
            group by {id}
        ) as by_row
        """,
        live=tables.table(live.table_name),
        other=tables.table(other.table_name),
    )
    return shown, lost


def odd_norms(tables: EntityTables, vector_set: VectorSet) -> int:
    """How many vectors of a sample of 10,000 have a length that differs from 1 by more than 1 %."""
    (count,) = tables.one(
        "select count(*) from ({sampled} limit {sample}) as t join {vectors} using ({id}, chunk)"
        " where abs(vector_norm(embedding::vector) - 1) > {tolerance}",
        sampled=tables.fill(SAMPLED),
        vectors=tables.table(vector_set.table_name),
        sample=sql.Literal(_NORM_SAMPLE),
        tolerance=sql.Literal(_NORM_TOLERANCE),
    )
    return int(count)


def text_counts(tables: EntityTables, max_tokens: int) -> TextCounts:
    """Rows without text, rows that failed to render, and chunks longer than `max_tokens`. A
    weighted chunk counts where one of its parts is longer, because the model reads each part by
    itself."""
    return TextCounts(
        *tables.one(
            """
            select
                count(*) filter (where t.text_hash is null and q.id is null),
                count(*) filter (where t.text_hash is null and q.id is not null),
                count(*) filter (
                    where {max_tokens} < any(coalesce(t.part_tokens, array[t.tokens]))
                )
            from {texts} t
            left join {quarantine} q
                on q.entity = {entity} and q.id = t.{id}::text and q.chunk = t.chunk
            """,
            max_tokens=sql.Literal(max_tokens),
        )
    )


def sample_texts(tables: EntityTables, size: int) -> list[tuple[str, str]]:
    """(id, text) of `size` rows, the same each time."""
    rows = tables.execute(
        "select {id}::text, text from {texts} where text_hash is not null"
        " order by text_hash limit {size}",
        size=sql.Literal(size),
    )
    return [(row_id, text) for row_id, text in rows]


def sample_vectors(
    tables: EntityTables, vector_set: VectorSet, size: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], Sequence[str]]:
    """Vectors, shape (rows, dimension), and the value of the first filter of each, as text."""
    register_vector(tables.connection)
    first = next(iter(tables.source.filters), None)
    rows = tables.execute(
        "select v.embedding::vector, {label} from ({sampled} limit {size}) as t"
        " join {vectors} v using ({id}, chunk)",
        sampled=tables.fill(SAMPLED),
        label=sql.SQL("coalesce(v.{}::text, '')").format(Identifier(first))
        if first
        else sql.SQL("''"),
        vectors=tables.table(vector_set.table_name),
        size=sql.Literal(size),
    ).fetchall()
    if not rows:
        return np.empty((0, vector_set.dimension), dtype=np.float32), []
    return np.stack([row[0].to_numpy() for row in rows]), [row[1] for row in rows]


def replace_coverage(connection: Connection[Row], schema: str) -> None:
    """Create `entity_coverage` again, with a row for every entity that has texts.

    Call it in a transaction: it holds a lock until the transaction ends.
    """
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"coverage/{schema}",)
    )
    rows = connection.execute(
        sql.SQL(
            "select e.entity, e.definition->>'id', s.table_name, s.number from {entities} e"
            " left join {sets} s on s.entity = e.entity and s.state = 'live'"
            # an entity whose tables were dropped is left out
            " where to_regclass(format('%I.%I', {schema}::text, e.entity || '_texts')) is not null"
            " order by 1"
        ).format(
            schema=sql.Literal(schema),
            entities=Identifier(schema, "entities"),
            sets=Identifier(schema, "vector_sets"),
        )
    ).fetchall()
    if not rows:
        return
    selects = [_coverage_of(schema, *row) for row in rows]
    connection.execute(
        sql.SQL("create or replace view {} as {}").format(
            Identifier(schema, "entity_coverage"), sql.SQL(" union all ").join(selects)
        )
    )


def _coverage_of(
    schema: str, entity: str, id_column: str, table: str | None, number: int | None
) -> sql.Composable:
    """The query of one row of the coverage view. Without a live set every text is pending."""
    key = Identifier(id_column)
    without_set = sql.SQL(
        "(select {key}, true as missing, false as outdated, false as quarantined, true as pending,"
        " coalesce(source_changed_at, serialised_at) as changed_at from {texts}"
        " where text_hash is not null)"
    ).format(key=key, texts=Identifier(schema, f"{entity}_texts"))
    return sql.SQL(
        """
        select
            {entity}::text as entity,
            count(*) as rows,
            count(*) filter (where missing = 0) as rows_with_vectors,
            coalesce(round(100.0 * count(*) filter (where missing = 0) / nullif(count(*), 0), 2),
                100) as coverage_percent,
            coalesce(sum(pending), 0)::bigint as pending,
            coalesce(sum(quarantined), 0)::bigint
                + (select count(*) from {quarantine} where entity = {entity}) as quarantined,
            extract(epoch from now() - min(pending_since))::bigint as oldest_pending_seconds,
            {recent} as vectors_last_24h
        from (
            select
                s.{key},
                count(*) filter (where s.missing) as missing,
                count(*) filter (where s.pending) as pending,
                count(*) filter (where s.quarantined and (s.missing or s.outdated)) as quarantined,
                min(s.changed_at) filter (where s.pending) as pending_since
            from {states} s
            group by s.{key}
        ) as by_row
        """
    ).format(
        entity=sql.Literal(entity),
        key=key,
        states=Identifier(schema, f"{entity}_chunks_{number}") if number else without_set,
        quarantine=Identifier(schema, "quarantine"),
        recent=sql.SQL(
            "(select count(*) from {} where updated_at > now() - interval '24 hours')"
        ).format(Identifier(schema, table))
        if table
        else sql.SQL("0::bigint"),
    )
