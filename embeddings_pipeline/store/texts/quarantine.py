"""The `quarantine` table: rows that could not be rendered, and texts on which a model failed.

The key of a row is (entity, id, chunk), the key of a text (identity, text_hash). A failed text is
quarantined in all rows, entities and sets of the identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg import sql
from psycopg.sql import Literal

from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.wire import encoding_of, hash_array, storable_message

# a text that failed this often is not encoded until it changes, or until a `retry`
MAX_ATTEMPTS = 3
# a row with this fingerprint is read again by the next pass, even if it has not changed
UNSETTLED = 0
# this long after a failure the text is pending again: the next daily run tries it again, a run that
# follows at once does not
RETRY_AFTER = "6 hours"

# whether the model must not be called again yet for the text of an entry `q`
NOT_TO_BE_TRIED = sql.SQL("(q.attempts >= {} or q.last_seen > now() - {}::interval)").format(
    Literal(MAX_ATTEMPTS), Literal(RETRY_AFTER)
)


@dataclass(frozen=True)
class Failure:
    """A row that could not be rendered, and why. `unread` is the URI of its unreadable image."""

    id: str
    stage: str
    error: str
    unread: str | None = None


@dataclass(frozen=True)
class Entry:
    """A failure of a row or of one of its texts. `model` is the model that failed on a text."""

    chunk: int
    stage: str
    model: str | None
    text_hash: bytes | None
    error: str
    attempts: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True)
class FailedRow:
    """A row that could not be rendered, or whose text a model failed on; `text` is the beginning of
    this text."""

    id: str
    chunk: int
    stage: str
    error: str
    attempts: int
    last_seen: datetime
    text: str | None = None


def note_rows(tables: EntityTables, failures: Sequence[Failure]) -> None:
    """Note rows that could not be rendered; those of `incoming_texts` that could be leave."""
    tables.execute(
        "delete from {quarantine} q using (select distinct {id}::text as id from incoming_texts) i"
        " where q.entity = {entity} and q.id = i.id and q.id <> all (%s)",
        ([failure.id for failure in failures],),
    )
    encoding = encoding_of(tables.connection)
    for failure in failures:
        tables.execute(
            """
            insert into {quarantine} as q (entity, id, chunk, stage, error)
            values ({entity}, %s, 0, %s, %s)
            on conflict (entity, id, chunk) where stage <> 'encode' do update set
                stage = excluded.stage, error = excluded.error,
                attempts = q.attempts + 1, last_seen = clock_timestamp()
            """,
            (failure.id, failure.stage, storable_message(failure.error, encoding)),
        )


def note_texts(tables: EntityTables, identity: int, errors: Mapping[bytes, str]) -> None:
    """Record that the model failed on these hashes, where a text of the entity still has them."""
    encoding = encoding_of(tables.connection)
    tables.execute(
        """
        insert into {quarantine} as q (identity, text_hash, stage, error)
        select {identity}, f.h, 'encode', f.error
        from unnest(%s::uuid[], %s::text[]) as f (h, error)
        where exists (select from {texts} t where {of_text} for share)
        order by f.h
        on conflict (identity, text_hash) where stage = 'encode' do update set
            error = excluded.error, attempts = q.attempts + 1, last_seen = clock_timestamp()
        """,
        (hash_array([*errors]), [storable_message(error, encoding) for error in errors.values()]),
        identity=Literal(identity),
        of_text=_of_text(tables, "f.h"),
    )


def _of_text(tables: EntityTables, text_hash: LiteralString) -> sql.Composable:
    """Whether a text `t` has this hash, by the index that there is on the hashes of the entity."""
    if tables.source.entity.weights:
        return sql.SQL("t.part_hashes @> array[{}]").format(sql.SQL(text_hash))
    return sql.SQL("t.text_hash = {}").format(sql.SQL(text_hash))


def of_row(tables: EntityTables, row_id: str) -> list[Entry]:
    """The failures of a row and of its texts, by chunk."""
    rows = tables.execute(
        """
        select q.chunk, q.stage, null, q.text_hash, q.error, q.attempts, q.first_seen, q.last_seen
        from {quarantine} q where q.entity = {entity} and q.id = %(id)s
        union all
        select t.chunk, q.stage, i.model, q.text_hash, q.error, q.attempts, q.first_seen,
            q.last_seen
        from {texts} t
        join {quarantine} q on q.stage = 'encode'
            and q.text_hash = any(coalesce(t.part_hashes, array[t.text_hash]))
        join {model_identities} i on i.number = q.identity
        where t.{id} = %(id)s::{id_type}
        order by 1, 3
        """,
        {"id": row_id},
    )
    return [
        Entry(chunk, stage, model, text_hash.bytes if text_hash else None, *rest)
        for chunk, stage, model, text_hash, *rest in rows
    ]


def latest(
    tables: EntityTables, identity: int | None, count: int, characters: int
) -> list[FailedRow]:
    """The latest failures of an entity's rows, and of the model with this number on their texts; at
    most `count`, with this many characters of a text."""
    rows = tables.execute(
        """
        select q.id, q.chunk, q.stage, q.error, q.attempts, q.last_seen, null as text
        from {quarantine} q where q.entity = {entity}
        union all
        select t.{id}::text, t.chunk, q.stage, q.error, q.attempts, q.last_seen,
            left(t.text, {characters})
        from {quarantine} q join {texts} t on {of_text}
        where q.stage = 'encode' and q.identity = {identity}
        order by last_seen desc, 1, 2 limit {count}
        """,
        identity=Literal(identity),
        of_text=_of_text(tables, "q.text_hash"),
        characters=Literal(characters),
        count=Literal(count),
    )
    return [FailedRow(*row) for row in rows]


def rows_affected(tables: EntityTables, states: sql.Composable) -> int:
    """How many rows could not be rendered, or have a quarantined chunk by its `states` in a set."""
    (count,) = tables.one(
        """
        select count(*) from (
            select q.id from {quarantine} q where q.entity = {entity}
            union
            select s.{id}::text from {states} s where s.quarantined and (s.missing or s.outdated)
        ) as failed
        """,
        states=states,
    )
    return int(count)


def unsettle(tables: EntityTables) -> None:
    """Make the next pass read every row again."""
    tables.execute("update {texts} set fingerprint = {unsettled}", unsettled=Literal(UNSETTLED))


def reset(tables: EntityTables) -> int:
    """Make the next run try every quarantined row and text again; returns the number of entries."""
    with tables.connection.transaction():
        tables.execute(
            "update {texts} t set fingerprint = {unsettled} from {quarantine} q"
            " where q.entity = {entity} and q.id = t.{id}::text",
            unsettled=Literal(UNSETTLED),
        )
        return tables.execute(
            """
            update {quarantine} q set attempts = 0, last_seen = 'epoch'
            where q.entity = {entity} or q.stage = 'encode' and exists (
                select from {texts} t where {of_text}
            )
            """,
            of_text=_of_text(tables, "q.text_hash"),
        ).rowcount
