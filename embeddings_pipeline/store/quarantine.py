"""The `quarantine` table: rows that failed, at which stage and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection

from embeddings_pipeline.store.pending import Pending
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet


@dataclass(frozen=True)
class Failure:
    """A row that could not be made into a text, and why; `unread` is the URI of its image."""

    id: str
    stage: str
    error: str
    unread: str | None = None


def settle(connection: Connection[Row], on: Statements, failures: Sequence[Failure]) -> None:
    """A row whose text is another than the one that failed leaves quarantine."""
    connection.execute(
        on.fill(
            """
            delete from {quarantine} q using incoming_texts i
            where q.entity = {entity} and q.id = i.{id}::text and i.chunk = 0
                and (q.stage = 'encode' or q.id <> all (%s))
                and not exists (
                    select from {texts} t where t.{id} = i.{id}
                        and t.chunk = q.chunk and t.text_hash = q.text_hash
                )
            """
        ),
        ([failure.id for failure in failures],),
    )
    for failure in failures:
        connection.execute(
            on.fill(
                """
                insert into {quarantine} as q (entity, id, chunk, stage, error)
                values ({entity}, %s, 0, %s, %s)
                on conflict (entity, id, chunk, vector_set) do update set
                    stage = excluded.stage, error = excluded.error,
                    attempts = q.attempts + 1, last_seen = clock_timestamp()
                """
            ),
            (failure.id, failure.stage, failure.error),
        )


def note_unencodable(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    pending: Pending,
    error: str,
) -> None:
    """Note that the set's model fails on this text, unless the text has changed meanwhile."""
    connection.execute(
        on.fill(
            """
            insert into {quarantine} as q (entity, id, chunk, vector_set, stage, error, text_hash)
            select {entity}, t.{id}::text, t.chunk, %(set)s, 'encode', %(error)s, t.text_hash
            from {texts} t
            where t.{id} = %(id)s::{id_type} and t.chunk = %(chunk)s and t.text_hash = %(hash)s
            for share of t
            on conflict (entity, id, chunk, vector_set) do update set
                error = excluded.error, last_seen = clock_timestamp(),
                attempts = case when q.text_hash = excluded.text_hash then q.attempts + 1
                    else 1 end,
                text_hash = excluded.text_hash
            """
        ),
        {
            "id": pending.id,
            "chunk": pending.chunk,
            "set": vector_set.number,
            "error": error,
            "hash": pending.text_hash,
        },
    )
