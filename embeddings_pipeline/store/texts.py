"""The `<entity>_texts` table: what each row says. Written in whole rows, a window at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.store import evictions, provenance, quarantine, row_changes
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.quarantine import Failure
from embeddings_pipeline.store.schema import vector_tables
from embeddings_pipeline.store.statements import Statements

_COLUMNS = (
    *("chunk", "partition_key", "fingerprint", "text", "parts", "weights", "text_hash"),
    *("tokens", "part_tokens", "source_changed_at"),
)


class Text(NamedTuple):
    """One chunk of a row. `text` is None for a row that has none, or that failed to render."""

    id: str
    chunk: int
    partition_key: str
    fingerprint: int
    text: str | None
    parts: list[str] | None
    weights: list[float] | None
    text_hash: bytes | None
    tokens: int
    part_tokens: list[int] | None
    source_changed_at: str | None
    filters: tuple[str | None, ...]


def write(
    connection: Connection[Row],
    on: Statements,
    texts: Sequence[Text],
    failures: Sequence[Failure],
    *,
    keep_trimmed: bool = False,
) -> None:
    """Store whole rows in one transaction: these chunks, and none beyond.

    Vectors of chunks that are no more go with them, in every set (into `trimmed`, if kept), and
    the filter columns beside the others follow at once: neither needs an encoder. Erased ids are
    left out. What the model read of replaced texts is to be evicted from caches. A row whose image
    cannot be read now, and was before behind the same URI, keeps its text and vectors.
    """
    columns = sql.SQL(", ").join(
        Identifier(column) for column in (on.source.entity.id, *_COLUMNS, *on.source.filters)
    )
    with connection.transaction():
        _receive(connection, on, columns, texts)
        _keep_unread(connection, on, failures)
        evictions.note_replaced(
            connection, on, evictions.hashes((text.text_hash, text.parts) for text in texts)
        )
        _upsert(connection, on, columns)
        connection.execute(
            on.fill(
                """
                delete from {texts} t using (
                    select {id}, max(chunk) as chunk from incoming_texts group by {id}
                ) as i
                where t.{id} = i.{id} and t.chunk > i.chunk
                """
            )
        )
        for table in vector_tables(connection, on.schema, on.source.entity.name):
            row_changes.trim(connection, on, table, keep=keep_trimmed)
            if on.source.filters:
                row_changes.update_filters(connection, on, table)
        quarantine.settle(connection, on, failures)


def delete(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> int:
    """Remove rows and every trace of them in one transaction; returns how many rows there were.
    Caches are to be told of their texts.

    Texts go first: their locks hold back a writer of vectors, which then finds no text.
    """
    chosen = {"chosen": sql.Literal(list(ids))}
    with connection.transaction():
        deleted = connection.execute(
            on.fill(
                "delete from {texts} where {id} = any({chosen}::{id_type}[])"
                " returning chunk, text_hash, parts",
                **chosen,
            )
        ).fetchall()
        evictions.note(connection, on, evictions.hashes(row[1:] for row in deleted))
        for table in vector_tables(connection, on.schema, on.source.entity.name):
            connection.execute(
                on.fill(
                    "delete from {vectors} where {id} = any({chosen}::{id_type}[])",
                    vectors=on.table(table),
                    **chosen,
                )
            )
        provenance.forget(connection, on, ids)
        connection.execute(
            on.fill(
                "delete from {quarantine} where entity = {entity} and id = any({chosen})", **chosen
            )
        )
    return sum(1 for chunk, *_ in deleted if chunk == 0)


def _receive(
    connection: Connection[Row], on: Statements, columns: sql.Composable, texts: Sequence[Text]
) -> None:
    connection.execute(
        on.fill(
            "create temporary table if not exists incoming_texts on commit delete rows"
            " as select {columns} from {texts} with no data",
            columns=columns,
        )
    )
    with connection.cursor() as cursor, cursor.copy("copy incoming_texts from stdin") as copy:
        for text in texts:
            *fixed, filters = text
            copy.write_row((*fixed, *filters))
    connection.execute("analyze incoming_texts")


def _keep_unread(connection: Connection[Row], on: Statements, failures: Sequence[Failure]) -> None:
    # a host that is away for an hour says nothing about the images it had
    unread = [(failure.id, failure.unread) for failure in failures if failure.unread]
    if unread:
        connection.execute(
            on.fill(
                """
                update incoming_texts i set text = t.text, text_hash = t.text_hash
                from {texts} t, unnest(%s::text[], %s::text[]) as f (id, uri)
                where t.{id} = i.{id} and t.chunk = i.chunk and t.{id}::text = f.id
                    and t.text = f.uri
                """
            ),
            [*map(list, zip(*unread, strict=True))],
        )


def _upsert(connection: Connection[Row], on: Statements, columns: sql.Composable) -> None:
    mutable = (*_COLUMNS[1:], *on.source.filters)
    connection.execute(
        on.fill(
            """
            insert into {texts} as t ({columns})
            select {columns} from incoming_texts i
            where not exists (
                select from {erasures} e where e.entity = {entity} and e.id = i.{id}::text
            )
            on conflict ({id}, chunk) do update set {assignments},
                -- the moment from which a vector is missing
                serialised_at = case when t.text_hash is distinct from excluded.text_hash
                    then clock_timestamp() else t.serialised_at end
            """,
            columns=columns,
            assignments=sql.SQL(", ").join(
                sql.SQL("{c} = excluded.{c}").format(c=Identifier(c)) for c in mutable
            ),
        )
    )
