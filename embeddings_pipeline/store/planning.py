"""What a run would do, worked out in temporary tables. Nothing here outlives its session."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from uuid import UUID

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.store.passes import hash_key
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.texts import Text
from embeddings_pipeline.store.vector_sets import Origin


def without_tables(on: Statements, connection: Connection[Row]) -> bool:
    """Give an entity that was never run an empty `texts` for this session; whether it was so."""
    (known,) = on.one(
        connection,
        "select to_regclass({name}) is not null",
        name=sql.Literal(on.names["texts"].as_string(connection)),
    )
    if known:
        return False
    connection.execute(
        on.fill(
            "create temporary table no_texts ({id} {id_type}, chunk int, partition_key text,"
            " fingerprint bigint, text_hash bytea, tokens int, parts text[], part_tokens int[])"
        )
    )
    on.names["texts"] = Identifier("pg_temp", "no_texts")
    return True


def forget(connection: Connection[Row]) -> None:
    """Drop what was worked out of one entity, before the next is planned in this session."""
    connection.execute(
        "drop table if exists no_texts, content_rows, moved, changed_rows, gone_rows, planned,"
        " wanting, inheriting, lacking, to_encode"
    )


def keep_content_changes(connection: Connection[Row], on: Statements) -> None:
    """Set aside the rows that changed by the former definition, as `content_rows`."""
    connection.execute("alter table changed_rows rename to content_rows")
    connection.execute("drop table moved, gone_rows")


def content_changes(connection: Connection[Row]) -> int:
    """Rows of `changed_rows` that are in `content_rows` and not new."""
    row = connection.execute(
        "select count(*) from changed_rows join content_rows using (id)"
        " where not changed_rows.is_new"
    ).fetchone()
    return int(row[0]) if row else 0


def receive(connection: Connection[Row], on: Statements, texts: Sequence[Text]) -> None:
    """Add rendered texts to `planned`, without what they say."""
    connection.execute(
        on.fill(
            "create temporary table if not exists planned"
            " (id {id_type}, chunk int, partition_key text, text_hash bytea, tokens int,"
            " part_ids uuid[], part_tokens int[])"
        )
    )
    with connection.cursor() as cursor, cursor.copy("copy planned from stdin") as copy:
        for text in texts:
            known = (text.id, text.chunk, text.partition_key, text.text_hash, text.tokens)
            copy.write_row((*known, _part_ids(text), text.part_tokens))


def _part_ids(text: Text) -> list[UUID] | None:
    """What tells equal parts: their md5, as Postgres has it of those that are stored."""
    if text.parts is None:
        return None
    return [UUID(md5(p.encode(), usedforsecurity=False).hexdigest()) for p in text.parts]


def moved_partitions(connection: Connection[Row], on: Statements, *, rekeyed: bool) -> int:
    """Rows that get another partition key: by a new scheme, or by a day that changed."""
    partitions = on.source.entity.partitions
    if isinstance(partitions, HashPartitions):
        if not rekeyed:
            return 0
        query = on.fill(
            "select count(*) from {texts} where chunk = 0 and partition_key <> {key}",
            key=hash_key(on, partitions),
        )
    else:
        query = on.fill(
            "select count(*) from planned p join {texts} t on t.{id} = p.id"
            " and t.chunk = 0 and p.chunk = 0 and t.partition_key <> p.partition_key"
        )
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def staying(on: Statements, origin: Origin) -> Origin:
    """An origin of the entity itself, less the chunks that its next pass removes."""
    chunks = on.fill(
        """
        (select * from {vectors} v
        where not exists (select from gone_rows g where g.id = v.{id})
            and (
                not exists (select from changed_rows c where c.id = v.{id})
                or exists (
                    select from planned p
                    where p.id = v.{id} and p.chunk = v.chunk and p.text_hash is not null
                )
            ))
        """,
        vectors=origin.table,
    )
    return origin._replace(table=chunks)


def throughput(connection: Connection[Row], on: Statements, model: str) -> float | None:
    """Tokens a second of the last runs with this model on the device used last; None before."""
    row = connection.execute(
        on.fill(
            """
            with runs as (
                select device, tokens, encode_seconds, finished_at from {run_ledger}
                where model = %s and encoded > 0 and encode_seconds > 0
                order by finished_at desc limit 20
            )
            select sum(tokens) / sum(encode_seconds) from runs
            where device = (select device from runs order by finished_at desc limit 1)
            """
        ),
        (model,),
    ).fetchone()
    return float(row[0]) if row and row[0] else None
