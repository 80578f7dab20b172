"""Reads staging models: the rows that changed, and their values. Writes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
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
    UndefinedFunction,
    UntranslatableCharacter,
)
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import (
    MAX_ID_BYTES,
    Source,
    bind,
    digest_of_stand_in,
    stand_in,
)
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.store.connection import Row, columns_of, server_cursor, trusted
from embeddings_pipeline.store.staging import columns as staged_columns
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.wire import encodable, encoding_of, text_array

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
    """A key of a declaration, its value, and the SQL in which statements use it. `unfit` says why
    a type that lacks an operator is refused."""

    key: str
    value: str
    expressions: list[sql.Composable]
    condition: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
    unfit: str | None = None


def _parts(source: Source) -> list[_Part]:
    """The parts of a declaration that become SQL, by key; the condition on rows comes last."""
    entity = source.entity
    parts = [
        _id_part(source),
        *(
            _Part("text column", column, [staged_columns.as_text(source, column)])
            for column in source.text_columns
        ),
        *(_filter_part(name, kind) for name, kind in source.filters.items()),
        *(
            _Part(key, column, [sql.SQL("{}::text").format(Identifier(column))])
            for key, column in entity.shown.items()
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


def _id_part(source: Source) -> _Part:
    """An id can be compared with ids that were stored, which no enum can."""
    compared = sql.SQL("{id}::text, {id} = any(array[]::{type}[])").format(
        id=Identifier(source.entity.id), type=trusted(source.id_type, escaped=False)
    )
    unfit = f"it cannot be compared with {source.id_type}: cast it in the staging model"
    return _Part("id", source.entity.id, [compared], unfit=unfit)


def _filter_part(name: str, kind: str) -> _Part:
    """A filter can be grouped: the operator = of some types, like box, compares something else."""
    grouped = sql.SQL("(select 1 from (values ({})) as f (f) group by f)").format(Identifier(name))
    other = "jsonb or text" if kind in ("json", "json[]") else "text"
    unfit = (
        f"values of type {kind} cannot be compared: cast it to {other} in the staging model, or"
        " leave it out of the filters"
    )
    return _Part("filters", name, [grouped], unfit=unfit)


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
                lacks = isinstance(refusal, UndefinedFunction)
                why = part.unfit if lacks and part.unfit else _message(source, refusal)
                return ConfigurationError(
                    f"entity {name!r}: {part.key}: {json.dumps(part.value, ensure_ascii=False)}:"
                    f" {why}"
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
    statement = query.as_bytes(connection)
    try:
        with (
            _unconverted(connection),
            connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            while rows := b"".join(islice(copy, _ROWS_AT_ONCE)):
                yield rows
    except _REFUSALS as error:
        # an expression may fail for the values of a single row
        raise _wrong(connection, source, _parts(source), error, rows=True) from error


@contextmanager
def _unconverted(connection: Connection[Row]) -> Iterator[None]:
    """A block in which a database that holds any bytes sends them as they are. It would refuse to
    convert those that are no text."""
    if connection.info.parameter_status("server_encoding") != "SQL_ASCII":
        yield
        return
    with connection.transaction():
        connection.execute("set local client_encoding to 'SQL_ASCII'")
        yield


def stored_ids(rows: bytes, encoding: str | None) -> bytes:
    """COPY text of `moved_rows` with a stand-in for each id that a database of this encoding cannot
    hold or index."""
    short = len(rows) <= MAX_ID_BYTES or max(map(len, rows.splitlines())) <= MAX_ID_BYTES
    if short and (rows.isascii() or (encoding is None and _is_text(rows))):
        return rows
    return b"".join(_stored_id(row, encoding) for row in rows.splitlines(keepends=True))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _stored_id(row: bytes, encoding: str | None) -> bytes:
    bucket, escaped, fingerprint = row.split(b"\t")
    row_id = _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), escaped)
    fits = len(row_id) <= MAX_ID_BYTES and _is_text(row_id)
    if fits and encodable(row_id.decode(), encoding):
        return row
    return b"\t".join([bucket, stand_in(row_id).encode(), fingerprint])


# how COPY writes the characters that would end a value or a row
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


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


def _array(numbers: Iterable[int]) -> sql.Literal:
    # COPY takes no parameters, and psycopg converts a list number by number
    return sql.Literal(f"{{{','.join(map(str, numbers))}}}")
