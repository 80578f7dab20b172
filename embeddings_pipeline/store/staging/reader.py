"""Reads rows of staging models by their ids. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.errors import CharacterNotInRepertoire, UntranslatableCharacter
from psycopg.sql import Identifier

from embeddings_pipeline.entities.fields import MAX_ID_BYTES, Source, digest_of_stand_in
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.store.connection import Row, server_cursor, trusted
from embeddings_pipeline.store.staging import columns as staged_columns
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.wire import encodable, encoding_of, text_array

# rows that a streamed read holds in memory; images may have a megabyte each
_ROWS_AT_ONCE = 500
_IMAGES_AT_ONCE = 16


class StagedRow(NamedTuple):
    """One row of a staging model, with each value as text. A row that cannot be read or stored has
    an `error`, and no values. `bucket` is its hash partition where its `id` is a stand-in."""

    id: str
    fingerprint: int
    day: str | None
    changed_at: str | None
    values: dict[str, str | None]
    copied: tuple[str | None, ...]
    error: str | None = None
    bucket: str | None = None


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
    found = [row_id for (row_id,) in rows]
    return found + [row.id for row in _rows_of_stand_ins(connection, source, ids)]


def read_rows(
    connection: Connection[Row], tables: EntityTables, ids: Sequence[str]
) -> Generator[StagedRow, None, None]:
    """Stream the eligible rows of these ids, in no order. Rows that are gone are left out. A row
    that `tables` cannot hold has an error in place of its values.

    A database with the encoding SQL_ASCII may hold bytes that are not text. A read stops at such a
    value, and the remaining ids are read again in halves, until the row at fault is alone.
    """
    yield from _rows_of_stand_ins(connection, tables.source, ids)
    limits = _Limits(tables.source, encoding_of(tables.connection))
    with closing(_readable_rows(connection, tables.source, ids)) as rows:
        if limits.any:
            yield from map(limits.checked, rows)
        else:
            yield from rows


def _readable_rows(
    connection: Connection[Row], source: Source, ids: Sequence[str]
) -> Generator[StagedRow, None, None]:
    read: set[str] = set()
    try:
        with closing(_read_rows(connection, source, ids)) as rows:
            for row in rows:
                read.add(row.id)
                yield row
    except (CharacterNotInRepertoire, UntranslatableCharacter) as error:
        left = [row_id for row_id in ids if row_id not in read]
        if len(left) <= 1:
            why = f"staging has a value that cannot be read: {error.diag.message_primary}"
            # a row that fails without its values, too, raises the error
            yield from _read_rows(connection, source, left, error=why)
            return
        half = len(left) // 2
        for part in (left[:half], left[half:]):
            yield from _readable_rows(connection, source, part)


def _read_rows(
    connection: Connection[Row], source: Source, ids: Sequence[str], *, error: str | None = None
) -> Generator[StagedRow, None, None]:
    """The rows of these ids; with an `error`, without their values."""
    entity = source.entity
    values = [
        *(staged_columns.as_text(source, column) for column in source.text_columns),
        *(sql.SQL("{}::text").format(Identifier(column)) for column, _ in source.copied.values()),
    ]
    columns = [
        sql.SQL("{}::text").format(Identifier(entity.id)),
        staged_columns.fingerprint(source),
        *_day_and_change(source),
        *([sql.SQL("null")] * len(values) if error else values),
    ]
    copied_from = 4 + len(source.text_columns)
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
    with connection.transaction(), server_cursor(connection, "staged_rows") as cursor:
        cursor.itersize = _IMAGES_AT_ONCE if entity.image else _ROWS_AT_ONCE
        for row in cursor.execute(query, (text_array(ids),)):
            yield StagedRow(
                id=row[0],
                fingerprint=row[1],
                day=row[2],
                changed_at=row[3],
                values=dict(zip(source.text_columns, row[4:copied_from], strict=True)),
                copied=row[copied_from:],
                error=error,
            )


def _day_and_change(source: Source) -> tuple[sql.Composable, sql.Composable]:
    """The expressions of a row's day, by which it is partitioned, and of the time of its change."""
    entity = source.entity
    return (
        sql.SQL("{}::text").format(staged_columns.day(entity.partitions, source))
        if isinstance(entity.partitions, DayPartitions)
        else sql.SQL("null"),
        staged_columns.changed_at(entity.changed_at) if entity.changed_at else sql.SQL("null"),
    )


def _rows_of_stand_ins(
    connection: Connection[Row], source: Source, ids: Sequence[str]
) -> list[StagedRow]:
    """The eligible rows for which some of these ids stand in."""
    stand_ins = {digest: row_id for row_id in ids if (digest := digest_of_stand_in(row_id))}
    if not stand_ins:
        return []
    query = sql.SQL(
        "select {digest}, {fingerprint}, {day}, {changed}, {bucket}, octet_length({id}::text)"
        " from {relation} as source where {eligible} and {digest} = any(%s)"
    ).format(
        id=Identifier(source.entity.id),
        digest=staged_columns.row_digest(source),
        fingerprint=staged_columns.fingerprint(source),
        day=_day_and_change(source)[0],
        changed=_day_and_change(source)[1],
        bucket=staged_columns.partition_key(source),
        relation=staged_columns.relation(source),
        eligible=staged_columns.eligible(source),
    )
    return [
        StagedRow(
            stand_ins[digest],
            fingerprint,
            day,
            changed,
            dict.fromkeys(source.text_columns),
            (None,) * len(source.copied),
            f"its id has {size:,} bytes, more than the {MAX_ID_BYTES:,} that an index holds"
            if size > MAX_ID_BYTES
            else "its id is not text in the encoding of the database of the vectors",
            bucket,
        )
        for digest, fingerprint, day, changed, bucket, size in connection.execute(
            query, ([*stand_ins],)
        )
    ]


# an index holds numbers of about 2,600 bytes, with four digits in two bytes
_MAX_DIGITS = 5_000
_MAX_ELEMENT_BYTES = 2_600
# an element of an array as Postgres writes it
_ELEMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^{},"]+', re.DOTALL)


class _Limits:
    """What the database of the vectors cannot hold or index of a staged row."""

    def __init__(self, source: Source, encoding: str | None) -> None:
        self._encoding = encoding
        self._copied = [*source.copied]
        kinds = [kind for _, kind in source.copied.values()]
        self._numbers = [n for n, kind in enumerate(kinds) if kind == "numeric"]
        self._lists = [n for n, kind in enumerate(kinds) if kind.endswith("[]")]
        self.any = bool(encoding or self._numbers or self._lists)

    def checked(self, row: StagedRow) -> StagedRow:
        """The row, or its error in place of its values."""
        error = row.error or self._error(row)
        if not error:
            return row
        return row._replace(
            values=dict.fromkeys(row.values), copied=(None,) * len(row.copied), error=error
        )

    def _error(self, row: StagedRow) -> str | None:
        copied = dict(zip(self._copied, row.copied, strict=True))
        for column, value in [*row.values.items(), *copied.items()]:
            if value and not encodable(value, self._encoding):
                return (
                    f"column {column!r} has characters that are not in the encoding of the"
                    f" database of the vectors, {self._encoding}"
                )
        for n in self._numbers:
            if (digits := _digits(row.copied[n] or "")) > _MAX_DIGITS:
                return (
                    f"filter {self._copied[n]!r} has {digits:,} digits, more than the"
                    f" {_MAX_DIGITS:,} that an index holds"
                )
        for n in self._lists:
            if (size := _longest_element(row.copied[n] or "")) > _MAX_ELEMENT_BYTES:
                return (
                    f"filter {self._copied[n]!r} has an element of {size:,} bytes, more than the"
                    f" {_MAX_ELEMENT_BYTES:,} that an index holds"
                )
        return None


def _digits(number: str) -> int:
    if len(number) <= _MAX_DIGITS:
        return 0
    return len(number.lstrip("-").replace(".", "").strip("0"))


def _longest_element(elements: str) -> int:
    if 4 * len(elements) <= _MAX_ELEMENT_BYTES:
        return 0
    return max((len(part.encode()) for part in _ELEMENT.findall(elements)), default=0)
