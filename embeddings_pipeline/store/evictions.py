"""The `evictions` table: hashes of texts that are gone here and that caches have yet to forget.

Written in the transaction that removes the texts, so that neither a kill nor a cache that is down
at that moment leaves their vectors in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from psycopg import Connection

from embeddings_pipeline.entities.serialise import text_hash
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements


def hashes(texts: Iterable[tuple[bytes | None, list[str] | None]]) -> set[bytes]:
    """What a model was given of texts, by their hash and weighted parts: either it or the parts."""
    read: set[bytes] = set()
    for whole, parts in texts:
        if parts:
            read.update(map(text_hash, parts))
        elif whole is not None:
            read.add(whole)
    return read


def note(connection: Connection[Row], on: Statements, gone: Collection[bytes]) -> None:
    """Note that caches are to forget these hashes."""
    if gone:
        connection.execute(
            on.fill(
                "insert into {evictions} (entity, text_hash) select {entity}, unnest(%s::bytea[])"
                " on conflict (entity, text_hash) do update set noted_at = excluded.noted_at"
            ),
            (sorted(gone),),
        )


def note_replaced(connection: Connection[Row], on: Statements, kept: Collection[bytes]) -> None:
    """Note what `incoming_texts` is about to replace, or to remove beyond its last chunks."""
    replaced = connection.execute(
        on.fill(
            """
            select t.text_hash, t.parts
            from {texts} t
            left join incoming_texts i on i.{id} = t.{id} and i.chunk = t.chunk
            where t.{id} = any(array(select {id} from incoming_texts))
                and t.text_hash is distinct from i.text_hash
            """
        )
    ).fetchall()
    note(connection, on, hashes(replaced).difference(kept))


def noted(connection: Connection[Row], on: Statements, limit: int) -> dict[bytes, datetime]:
    """Some of the hashes that are noted, and when they were."""
    rows = connection.execute(
        on.fill("select text_hash, noted_at from {evictions} where entity = {entity} limit %s"),
        (limit,),
    )
    return dict(rows.fetchall())


def count(connection: Connection[Row], on: Statements) -> int:
    """How many hashes are noted."""
    (waiting,) = on.one(connection, "select count(*) from {evictions} where entity = {entity}")
    return int(waiting)


def done(connection: Connection[Row], on: Statements, forgotten: Mapping[bytes, datetime]) -> None:
    """Note that caches have forgotten these hashes, but for those that were noted again since."""
    connection.execute(
        on.fill(
            "delete from {evictions} e using unnest(%s::bytea[], %s::timestamptz[]) as f (h, at)"
            " where e.entity = {entity} and e.text_hash = f.h and e.noted_at = f.at"
        ),
        ([*forgotten], [*forgotten.values()]),
    )
