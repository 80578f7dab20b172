"""Reads staging models: the rows that changed, and their values. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import psycopg
from psycopg import Connection, sql
from psycopg.errors import (
    CharacterNotInRepertoire,
    ObjectNotInPrerequisiteState,
    RaiseException,
    UndefinedColumn,
    UntranslatableCharacter,
)
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import Source, bind
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.store.connection import Row, columns_of, trusted
from embeddings_pipeline.store.staging import columns as staged_columns
from embeddings_pipeline.store.wire import text_array

# errors of a statement, not of the server
_REFUSALS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.NotSupportedError,
    ObjectNotInPrerequisiteState,
    RaiseException,
)
# rows that a streamed read holds in memory; images may have a megabyte each
_ROWS_AT_ONCE = 500
_IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class Digest:
    """The number of stored rows in one bucket of fingerprints, and the xor of the fingerprints."""

    bucket: int
    rows: int
    xor: int


class StagedRow(NamedTuple):
    """One row of a staging model, with each value as text. A row that cannot be read has an
    `error`, and no values."""

    id: str
    fingerprint: int
    day: str | None
    changed_at: str | None
    values: dict[str, str | None]
    filters: tuple[str | None, ...]
    error: str | None = None


def staging_columns(connection: Connection[Row], schema: str, table: str) -> dict[str, str]:
    """Columns and types of a staging model. Raises ConfigurationError where it does not exist."""
    columns = columns_of(connection, schema, table)
    if not columns:
        raise ConfigurationError(
            f"there is no {schema}.{table} in {connection.info.dbname!r} on"
            f" {connection.info.host}: `dbt build` makes it, and so does `embeddings-pipeline run`"
            " without --no-dbt"
        )
    return columns


def source_of(connection: Connection[Row], entity: Entity) -> Source:
    """An entity checked against its staging model: its columns and its SQL expressions.

    Raises ConfigurationError with the key, its value and the message of Postgres.
    """
    try:
        columns = staging_columns(connection, entity.db_schema, entity.table)
    except ConfigurationError as error:
        raise ConfigurationError(f"entity {entity.name!r}: {error}") from None
    source = bind(entity, columns)
    parts = _parts(source)
    # one statement checks all parts; single parts are checked only after an error
    whole = _Part("", "", [e for part in parts for e in part.expressions], parts[-1].condition)
    if refusal := _refusal(connection, source, whole):
        raise _wrong(connection, source, parts, refusal)
    return source


@dataclass(frozen=True)
class _Part:
    """A key of a declaration, its value, and the SQL in which statements use it."""

    key: str
    value: str
    expressions: list[sql.Composable]
    condition: sql.Composable = field(default_factory=lambda: sql.SQL("true"))


def _parts(source: Source) -> list[_Part]:
    """The parts of a declaration that become SQL, by key; the condition on rows comes last."""
    entity = source.entity
    parts = [
        _Part("id", entity.id, [sql.SQL("{}::text").format(Identifier(entity.id))]),
        *(
            _Part("text column", column, [staged_columns.as_text(source, column)])
            for column in source.text_columns
        ),
        *(
            _Part("filters", name, [sql.SQL("{0} is distinct from {0}").format(Identifier(name))])
            for name in source.filters
        ),
    ]
    if isinstance(entity.partitions, DayPartitions):
        key = staged_columns.partition_key(source)
        parts.append(_Part("partitions.column", entity.partitions.column, [key]))
    if entity.changed_at:
        changed = staged_columns.changed_at(entity.changed_at)
        parts.append(_Part("changed_at", entity.changed_at, [changed]))
    if entity.deleted:
        gone = sql.SQL("{} is true").format(Identifier(entity.deleted))
        parts.append(_Part("deleted", entity.deleted, [gone]))
    where = staged_columns.where(entity, escaped=False)
    return [*parts, _Part("where", entity.where or "", [], where)]


def _refusal(
    connection: Connection[Row], source: Source, part: _Part, *, rows: bool = False
) -> psycopg.Error | None:
    """The error that Postgres raises for a part, or None; `rows` evaluates it in each row."""
    query = sql.SQL("select {expressions} from {relation} as source where {condition}").format(
        expressions=sql.SQL(", ").join(part.expressions),
        relation=staged_columns.relation(source),
        condition=part.condition,
    )
    read = "select count(read) from ({}) as read" if rows else "{} limit 0"
    try:
        connection.execute(sql.SQL(read).format(query))
    except _REFUSALS as error:
        return error
    return None


def _wrong(
    connection: Connection[Row],
    source: Source,
    parts: Sequence[_Part],
    error: psycopg.Error,
    *,
    rows: bool = False,
) -> EmbeddingsError:
    """The error of a staging model that the declaration does not fit; names the key at fault."""
    entity = source.entity
    name, schema, table = entity.name, entity.db_schema, entity.table
    if _refusal(connection, source, _Part("", "", []), rows=rows) is None:
        for part in parts:
            if refusal := _refusal(connection, source, part, rows=rows):
                return ConfigurationError(
                    f"entity {name!r}: {part.key}: {json.dumps(part.value, ensure_ascii=False)}:"
                    f" {_message(source, refusal)}"
                )
    kind = EmbeddingsError if rows else ConfigurationError
    return kind(f"entity {name!r}: {schema}.{table} cannot be read: {_message(source, error)}")


def _message(source: Source, error: psycopg.Error) -> str:
    if isinstance(error, UndefinedColumn):
        return f"{error.diag.message_primary} (columns: {', '.join(source.columns)})"
    parts = [error.diag.message_primary or str(error).strip(), error.diag.message_hint]
    return ". ".join(part.rstrip(".") for part in parts if part)


def moved_rows(
    connection: Connection[Row],
    source: Source,
    buckets: int,
    stored: Sequence[Digest],
    keys: Sequence[str] | None = None,
) -> Generator[bytes, None, None]:
    """COPY text of (bucket, id, fingerprint) of each bucket whose digest is not the stored one.

    One statement scans the model once. It compares the fingerprints in the database, and sends only
    buckets that differ. An empty bucket is sent as one row of nulls. With `keys` it reads only rows
    of these partitions. `buckets` is a power of two. The fingerprint of a row determines its
    bucket, so that a changed row makes its old and its new bucket differ.

    Raises ConfigurationError with the key of the declaration whose SQL fails on some row.
    """
    query = sql.SQL(
        """
        copy (
            with present as materialized (
                select {id}::text as id, {fingerprint} as fingerprint
                from {relation} as source where {eligible}
            ),
            stored as (
                select * from unnest({numbers}::int[], {rows}::bigint[], {xors}::bigint[])
                    as s (bucket, rows, xor)
            ),
            digests as (
                select (fingerprint & {mask})::int as bucket, count(*) as rows,
                    bit_xor(fingerprint) as xor
                from present group by 1
            ),
            moved as (
                select bucket from digests d full join stored s using (bucket)
                where (d.rows, d.xor) is distinct from (s.rows, s.xor)
            )
            select m.bucket, p.id, p.fingerprint
            from moved m left join present p on (p.fingerprint & {mask})::int = m.bucket
        ) to stdout
        """
    ).format(
        id=Identifier(source.entity.id),
        fingerprint=staged_columns.fingerprint(source),
        relation=staged_columns.relation(source),
        eligible=staged_columns.eligible(source, keys, escaped=False),
        mask=sql.Literal(buckets - 1),
        numbers=_array(digest.bucket for digest in stored),
        rows=_array(digest.rows for digest in stored),
        xors=_array(digest.xor for digest in stored),
    )
    try:
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            while rows := b"".join(islice(copy, _ROWS_AT_ONCE)):
                yield rows
    except _REFUSALS as error:
        # an expression may fail for the values of a single row
        raise _wrong(connection, source, _parts(source), error, rows=True) from error


def eligible_ids(connection: Connection[Row], source: Source, ids: Sequence[str]) -> list[str]:
    """Those of the ids whose rows may be embedded, in any partition."""
    rows = connection.execute(
        sql.SQL(
            "select {id}::text from {relation} as source"
            " where {eligible} and {id} = any(%s::text[]::{type}[])"
        ).format(
            id=Identifier(source.entity.id),
            relation=staged_columns.relation(source),
            eligible=staged_columns.eligible(source),
            type=trusted(source.id_type),
        ),
        (text_array(ids),),
    )
    return [row_id for (row_id,) in rows]


def read_rows(
    connection: Connection[Row], source: Source, ids: Sequence[str]
) -> Generator[StagedRow, None, None]:
    """Stream the eligible rows of these ids, in no order. Rows that are gone are left out.

    A database with the encoding SQL_ASCII may hold bytes that are not text. A read stops at such a
    value, and the remaining ids are read again in halves, until the row at fault is alone.
    """
    read: set[str] = set()
    try:
        with closing(_read_rows(connection, source, ids)) as rows:
            for row in rows:
                read.add(row.id)
                yield row
    except (CharacterNotInRepertoire, UntranslatableCharacter) as error:
        left = [row_id for row_id in ids if row_id not in read]
        if len(left) <= 1:
            # a row that fails without its values, too, raises the error
            yield from _read_rows(connection, source, left, error=str(error.diag.message_primary))
            return
        half = len(left) // 2
        for part in (left[:half], left[half:]):
            yield from read_rows(connection, source, part)


def _read_rows(
    connection: Connection[Row], source: Source, ids: Sequence[str], *, error: str | None = None
) -> Generator[StagedRow, None, None]:
    """The rows of these ids; with an `error`, without their values."""
    entity = source.entity
    day = (
        sql.SQL("{}::text").format(staged_columns.day(entity.partitions, source))
        if isinstance(entity.partitions, DayPartitions)
        else sql.SQL("null")
    )
    changed = staged_columns.changed_at(entity.changed_at) if entity.changed_at else sql.SQL("null")
    values = [
        *(staged_columns.as_text(source, column) for column in source.text_columns),
        *(sql.SQL("{}::text").format(Identifier(column)) for column in source.filters),
    ]
    columns = [
        sql.SQL("{}::text").format(Identifier(entity.id)),
        staged_columns.fingerprint(source),
        day,
        changed,
        *([sql.SQL("null")] * len(values) if error else values),
    ]
    filters_from = 4 + len(source.text_columns)
    query = sql.SQL(
        "select {columns} from {relation} as source"
        " where {eligible} and {id} = any(%s::text[]::{type}[])"
    ).format(
        columns=sql.SQL(", ").join(columns),
        relation=staged_columns.relation(source),
        eligible=staged_columns.eligible(source),
        id=Identifier(entity.id),
        type=trusted(source.id_type),
    )
    with connection.transaction(), connection.cursor("staged_rows") as cursor:
        cursor.itersize = _IMAGES_AT_ONCE if entity.image else _ROWS_AT_ONCE
        for row in cursor.execute(query, (text_array(ids),)):
            yield StagedRow(
                id=row[0],
                fingerprint=row[1],
                day=row[2],
                changed_at=row[3],
                values=dict(zip(source.text_columns, row[4:filters_from], strict=True)),
                filters=row[filters_from:],
                error=error,
            )


def _array(numbers: Iterable[int]) -> sql.Literal:
    # COPY takes no parameters, and psycopg converts a list number by number
    return sql.Literal(f"{{{','.join(map(str, numbers))}}}")
