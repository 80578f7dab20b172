"""Counts of the stored state for checks, status and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg.sql import Identifier

from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts.texts import SAMPLED
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors.pending import states_of

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


def entity_coverage(connection: Connection[Row], schema: str) -> list[dict[str, Any]]:
    """The rows of the view `entity_coverage`, with numbers as floats and integers."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            sql.SQL("select * from {} order by entity").format(
                Identifier(schema, "entity_coverage")
            )
        ).fetchall()
    return [{**row, "coverage_percent": float(row["coverage_percent"])} for row in rows]
