"""What moved since the last pass: stored texts against the fingerprints of staging."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.staging import Digest
from embeddings_pipeline.store.statements import Statements

# stored rows a bucket: few enough that a change sends little, enough that digests stay small
_ROWS_A_BUCKET = 4
_MAX_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Moved:
    """What a comparison with staging found, in rows. `changed` has the new ones in it."""

    new: int
    changed: int
    gone: int
    stored: int


def digests(connection: Connection[Row], on: Statements) -> tuple[int, list[Digest]]:
    """The number of buckets, a power of two that follows the rows, and their digests."""
    (rows,) = on.one(connection, "select count(*) from {texts} where chunk = 0")
    buckets = 1
    while buckets * _ROWS_A_BUCKET < rows and buckets < _MAX_BUCKETS:
        buckets *= 2
    found = connection.execute(
        on.fill(
            "select (fingerprint & {mask})::int, count(*), bit_xor(fingerprint)"
            " from {texts} where chunk = 0 group by 1",
            mask=sql.Literal(buckets - 1),
        )
    )
    return buckets, [Digest(*row) for row in found]


def compare(
    connection: Connection[Row],
    on: Statements,
    buckets: int,
    stored: Sequence[Digest],
    moved: Iterable[bytes],
) -> Moved:
    """Fill the temporary tables `changed_rows` and `gone_rows` from the buckets that moved.

    An erased id is in neither. Call `bad_ids` before believing the result.
    """
    connection.execute(
        on.fill("create temporary table moved (bucket int, id {id_type}, fingerprint bigint)")
    )
    with connection.cursor() as cursor, cursor.copy("copy moved from stdin") as copy:
        for block in moved:
            copy.write(block)
    connection.execute("analyze moved")
    connection.execute(
        on.fill(
            """
            create temporary table changed_rows as
            select row_number() over () as n, m.id, t.{id} is null as is_new
            from moved m
            left join {texts} t on t.{id} = m.id and t.chunk = 0
            where m.id is not null and t.fingerprint is distinct from m.fingerprint
                and not exists (
                    select from {erasures} e where e.entity = {entity} and e.id = m.id::text
                )
            """
        )
    )
    connection.execute(
        on.fill(
            """
            create temporary table gone_rows as
            select row_number() over () as n, t.{id} as id
            from {texts} t
            where t.chunk = 0
                and (t.fingerprint & {mask})::int in (select bucket from moved)
                and not exists (select from moved m where m.id = t.{id})
            """,
            mask=sql.Literal(buckets - 1),
        )
    )
    new, changed, gone = on.one(
        connection,
        "select (select count(*) from changed_rows where is_new),"
        " (select count(*) from changed_rows), (select count(*) from gone_rows)",
    )
    return Moved(new, changed, gone, sum(digest.rows for digest in stored))


def bad_ids(connection: Connection[Row]) -> tuple[int, list[str]]:
    """Rows without an id, and some ids that come twice, among the moved ones."""
    row = connection.execute(
        "select count(*) from moved where id is null and fingerprint is not null"
    ).fetchone()
    twice = connection.execute(
        "select id::text from moved where id is not null group by id having count(*) > 1"
        " order by id limit 5"
    )
    return (row[0] if row else 0), [row_id for (row_id,) in twice]


def slices(
    connection: Connection[Row], table: Literal["changed_rows", "gone_rows"], size: int
) -> Iterator[list[str]]:
    """The ids of a temporary table of `compare`, `size` at a time."""
    last = 0
    while True:
        rows = connection.execute(
            sql.SQL("select id::text from {} where n > %s and n <= %s").format(Identifier(table)),
            (last, last + size),
        ).fetchall()
        if not rows:
            return
        yield [row_id for (row_id,) in rows]
        last += size
