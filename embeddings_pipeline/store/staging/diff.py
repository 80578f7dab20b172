"""Rows that changed since the last pass: compares stored fingerprints with those of staging."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.staging.reader import Digest, stored_ids
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.wire import encoding_of

# stored rows per bucket: a small bucket sends few rows for a change, a large one keeps digests few
_ROWS_A_BUCKET = 4
_MAX_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Moved:
    """The result of a comparison with staging, in rows. `changed` includes the new rows."""

    new: int
    changed: int
    gone: int
    stored: int


def digests(tables: EntityTables, keys: Sequence[str] | None) -> tuple[int, list[Digest]]:
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
    return buckets, [Digest(*row) for row in found]


def compare(
    tables: EntityTables,
    buckets: int,
    stored: Sequence[Digest],
    moved: Iterable[bytes],
    keys: Sequence[str] | None,
) -> Moved:
    """Fill the temporary tables `changed_rows` and `gone_rows` from the buckets that differ.

    Neither contains an erased id. Call `bad_ids` before using the result.
    """
    tables.execute("create temporary table moved (bucket int, id {id_type}, fingerprint bigint)")
    encoding = encoding_of(tables.connection)
    with tables.connection.cursor() as cursor, cursor.copy("copy moved from stdin") as copy:
        for block in moved:
            copy.write(stored_ids(block, encoding))
    tables.execute("analyze moved")
    tables.execute(
        """
        create temporary table changed_rows as
        select row_number() over (order by t.{id} is null, m.id) as n, m.id,
            t.{id} is null as is_new
        from moved m
        left join {texts} t on t.{id} = m.id and t.chunk = 0
        where m.id is not null and t.fingerprint is distinct from m.fingerprint
            and not exists (
                select from {erasures} e where e.entity = {entity} and e.id = m.id::text
            )
        """
    )
    tables.execute(
        """
        create temporary table gone_rows as
        select row_number() over (order by t.{id}) as n, t.{id} as id
        from {texts} t
        where t.chunk = 0 and {keys}
            and (t.fingerprint & {mask})::int in (select bucket from moved)
            and not exists (select from moved m where m.id = t.{id})
        """,
        mask=Literal(buckets - 1),
        keys=_of_keys(keys),
    )
    new, changed, gone = tables.one(
        "select (select count(*) from changed_rows where is_new),"
        " (select count(*) from changed_rows), (select count(*) from gone_rows)"
    )
    return Moved(new, changed, gone, sum(digest.rows for digest in stored))


def keep_moved(tables: EntityTables, ids: Sequence[str]) -> None:
    """Move ids from `gone_rows` to `changed_rows`: these rows moved to another partition."""
    tables.execute(
        "with moved as (delete from gone_rows where id = any(%s::{id_type}[]) returning id)"
        " insert into changed_rows select row_number() over (order by id)"
        " + (select coalesce(max(n), 0) from changed_rows), id, false from moved",
        (list(ids),),
    )


def bad_ids(tables: EntityTables) -> tuple[int, list[str]]:
    """Among the rows of the differing buckets: how many have no id, and up to 5 repeated ids."""
    (missing,) = tables.one(
        "select count(*) from moved where id is null and fingerprint is not null"
    )
    twice = tables.execute(
        "select id::text from moved where id is not null group by id having count(*) > 1"
        " order by id limit 5"
    )
    return missing, [row_id for (row_id,) in twice]


def changed_slices(tables: EntityTables, size: int) -> Iterator[tuple[list[str], bool]]:
    """The ids of `changed_rows`, `size` at a time, and whether all of a slice are new."""
    last = 0
    while True:
        rows = tables.execute(
            "select id::text, is_new, n from changed_rows where n > %s order by n limit %s",
            (last, size),
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


def _of_keys(keys: Sequence[str] | None) -> sql.Composable:
    if keys is None:
        return sql.SQL("true")
    return sql.SQL("t.partition_key = any({}::text[])").format(Literal(list(keys)))
