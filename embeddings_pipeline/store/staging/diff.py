"""Rows that changed since the last pass: compares stored fingerprints with those of staging.

`compare` leaves its result in temporary tables of the session, `changed_rows` and `gone_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import MAX_ID_BYTES, Source, stand_in
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.staging import columns, reader
from embeddings_pipeline.store.staging.source import naming_the_key
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.wire import encodable, encoding_of

# ids sent to staging with one read; each read scans the model once
SLICE = 50_000
# stored rows per bucket: a small bucket sends few rows for a change, a large one keeps digests few
_ROWS_A_BUCKET = 4
_MAX_BUCKETS = 1 << 16
# blocks of COPY that are passed on together
_BLOCKS_AT_ONCE = 500


@dataclass(frozen=True)
class Difference:
    """How the texts differ from staging, in rows. `changed` includes the new rows, and `stored`
    counts the rows that have texts."""

    new: int
    changed: int
    gone: int
    stored: int


@dataclass(frozen=True)
class _Digest:
    """The number of stored rows in one bucket of fingerprints, and the xor of the fingerprints."""

    bucket: int
    rows: int
    xor: int


def compare(
    staging: Connection[Row], tables: EntityTables, keys: Sequence[str] | None
) -> Difference:
    """Compare these partitions, or all, with staging, and fill the temporary tables `changed_rows`
    and `gone_rows`. Neither contains an erased id.

    Raises ConfigurationError for null or repeated ids, and with the key of the declaration whose
    expression fails on some row.
    """
    buckets, stored = _digests(tables, keys)
    # the stream must be closed before its connection returns to the pool, even after an error
    with closing(_differing_buckets(staging, tables.source, buckets, stored, keys)) as rows:
        _receive(tables, rows)
    _refuse_received(tables)
    _fill_changed_and_gone(tables, buckets, keys)
    if keys is not None:
        _keep_repartitioned(staging, tables)
    new, changed, gone = tables.one(
        "select (select count(*) from changed_rows where is_new),"
        " (select count(*) from changed_rows), (select count(*) from gone_rows)"
    )
    return Difference(new, changed, gone, sum(digest.rows for digest in stored))


def changed_slices(tables: EntityTables) -> Iterator[tuple[list[str], bool]]:
    """The ids of `changed_rows`, a slice at a time, and whether all of a slice are new."""
    last = 0
    while True:
        rows = tables.execute(
            "select id::text, is_new, n from changed_rows where n > %s order by n limit %s",
            (last, SLICE),
        ).fetchall()
        if not rows:
            return
        changed = [row_id for row_id, is_new, _ in rows if not is_new]
        if changed:
            yield changed, False
        if len(changed) < len(rows):
            yield [row_id for row_id, is_new, _ in rows if is_new], True
        last = rows[-1][2]


def gone_slices(tables: EntityTables, size: int) -> Iterator[list[str]]:
    """The ids of `gone_rows`, `size` at a time."""
    last = 0
    while True:
        rows = tables.execute(
            "select id::text, n from gone_rows where n > %s order by n limit %s", (last, size)
        ).fetchall()
        if not rows:
            return
        yield [row_id for row_id, _ in rows]
        last = rows[-1][1]


def forget(tables: EntityTables) -> None:
    """Drop the temporary tables, so that the session can compare again."""
    tables.execute("drop table if exists staged, changed_rows, gone_rows")


def refuse_bad_ids(entity: Entity, nulls: int, repeated: Sequence[str]) -> None:
    """Raise ConfigurationError where ids are null or repeated."""
    where = f"entity {entity.name!r}: {entity.db_schema}.{entity.table}"
    if nulls:
        raise ConfigurationError(
            f"{where} has {nulls} rows whose {entity.id} is null: an id must be unique and not"
            " null; correct the staging model"
        )
    if repeated:
        raise ConfigurationError(
            f"{where} has {entity.id} more than once, among them"
            f" {', '.join(repr(row_id) for row_id in repeated)}: an id must be unique; correct"
            " the staging model"
        )


def _digests(tables: EntityTables, keys: Sequence[str] | None) -> tuple[int, list[_Digest]]:
    """The number of buckets of fingerprints, a power of two that grows with the rows of these
    partitions (None: all), and the digests of the buckets."""
    of_keys = _of_keys(keys)
    (rows,) = tables.one("select count(*) from {texts} t where chunk = 0 and {keys}", keys=of_keys)
    buckets = 1
    while buckets * _ROWS_A_BUCKET < rows and buckets < _MAX_BUCKETS:
        buckets *= 2
    found = tables.execute(
        "select (fingerprint & {mask})::int, count(*), bit_xor(fingerprint)"
        " from {texts} t where chunk = 0 and {keys} group by 1",
        mask=Literal(buckets - 1),
        keys=of_keys,
    )
    return buckets, [_Digest(*row) for row in found]


def _differing_buckets(
    staging: Connection[Row],
    source: Source,
    buckets: int,
    stored: Sequence[_Digest],
    keys: Sequence[str] | None,
) -> Generator[bytes, None, None]:
    """COPY text of (bucket, id, fingerprint) of each bucket whose digest is not the stored one.

    One statement scans the model once. It compares the fingerprints in the database, and sends only
    buckets that differ. An empty bucket is sent as one row of nulls. `buckets` is a power of two.
    The fingerprint of a row determines its bucket, so that a changed row makes its old and its new
    bucket differ.
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
            differing as (
                select bucket from digests d full join stored s using (bucket)
                where (d.rows, d.xor) is distinct from (s.rows, s.xor)
            )
            select d.bucket, p.id, p.fingerprint
            from differing d left join present p on (p.fingerprint & {mask})::int = d.bucket
        ) to stdout
        """
    ).format(
        id=Identifier(source.entity.id),
        fingerprint=columns.fingerprint(source),
        relation=columns.relation(source),
        eligible=columns.eligible(source, keys, escaped=False),
        mask=sql.Literal(buckets - 1),
        numbers=_array(digest.bucket for digest in stored),
        rows=_array(digest.rows for digest in stored),
        xors=_array(digest.xor for digest in stored),
    )
    statement = query.as_bytes(staging)
    with (
        naming_the_key(staging, source),
        _unconverted(staging),
        staging.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        while rows := b"".join(islice(copy, _BLOCKS_AT_ONCE)):
            yield rows


def _receive(tables: EntityTables, blocks: Iterable[bytes]) -> None:
    """Fill the temporary table `staged` with the rows of the buckets that differ."""
    tables.execute("create temporary table staged (bucket int, id {id_type}, fingerprint bigint)")
    encoding = encoding_of(tables.connection)
    with tables.connection.cursor() as cursor, cursor.copy("copy staged from stdin") as copy:
        for block in blocks:
            copy.write(_stored_ids(block, encoding))
    tables.execute("analyze staged")


def _refuse_received(tables: EntityTables) -> None:
    """Raise ConfigurationError where rows in `staged` have no id, or the same."""
    (nulls,) = tables.one(
        "select count(*) from staged where id is null and fingerprint is not null"
    )
    repeated = tables.execute(
        "select id::text from staged where id is not null group by id having count(*) > 1"
        " order by id limit 5"
    )
    refuse_bad_ids(tables.source.entity, nulls, [row_id for (row_id,) in repeated])


def _fill_changed_and_gone(tables: EntityTables, buckets: int, keys: Sequence[str] | None) -> None:
    tables.execute(
        """
        create temporary table changed_rows as
        select row_number() over (order by t.{id} is null, s.id) as n, s.id,
            t.{id} is null as is_new
        from staged s
        left join {texts} t on t.{id} = s.id and t.chunk = 0
        where s.id is not null and t.fingerprint is distinct from s.fingerprint
            and not exists (
                select from {erasures} e where e.entity = {entity} and e.id = s.id::text
            )
        """
    )
    tables.execute(
        """
        create temporary table gone_rows as
        select row_number() over (order by t.{id}) as n, t.{id} as id
        from {texts} t
        where t.chunk = 0 and {keys}
            and (t.fingerprint & {mask})::int in (select bucket from staged)
            and not exists (select from staged s where s.id = t.{id})
        """,
        mask=Literal(buckets - 1),
        keys=_of_keys(keys),
    )


def _keep_repartitioned(staging: Connection[Row], tables: EntityTables) -> None:
    """Move the rows that another partition has now from `gone_rows` to `changed_rows`."""
    elsewhere = [
        row_id
        for ids in gone_slices(tables, SLICE)
        for row_id in reader.eligible_ids(staging, tables.source, ids)
    ]
    tables.execute(
        "with kept as (delete from gone_rows where id = any(%s::{id_type}[]) returning id)"
        " insert into changed_rows select row_number() over (order by id)"
        " + (select coalesce(max(n), 0) from changed_rows), id, false from kept",
        (elsewhere,),
    )


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


def _stored_ids(rows: bytes, encoding: str | None) -> bytes:
    """These rows in COPY text, with a stand-in for each id that a database of this encoding cannot
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


def _of_keys(keys: Sequence[str] | None) -> sql.Composable:
    if keys is None:
        return sql.SQL("true")
    return sql.SQL("t.partition_key = any({}::text[])").format(Literal(list(keys)))


def _array(numbers: Iterable[int]) -> sql.Literal:
    # COPY takes no parameters, and psycopg converts a list number by number
    return sql.Literal(f"{{{','.join(map(str, numbers))}}}")
