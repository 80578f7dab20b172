"""What a run would do, worked out in temporary tables. Nothing here outlives its session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.store.failures import left_alone
from embeddings_pipeline.store.passes import hash_key
from embeddings_pipeline.store.pending import pending_of
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.texts import Text
from embeddings_pipeline.store.vector_sets import Origin, VectorSet


@dataclass(frozen=True)
class Work:
    """What a set lacks: chunks, how many of them can be taken over, and the texts to encode."""

    pending: int
    reusable: int
    encode: int
    tokens: int
    rows: int


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
            " fingerprint bigint, text_hash bytea, tokens int)"
        )
    )
    on.names["texts"] = Identifier("pg_temp", "no_texts")
    return True


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
    """Add rendered texts to `planned`; a token count of 0 is one that was not taken."""
    connection.execute(
        on.fill(
            "create temporary table if not exists planned"
            " (id {id_type}, chunk int, partition_key text, text_hash bytea, tokens int)"
        )
    )
    with connection.cursor() as cursor, cursor.copy("copy planned from stdin") as copy:
        for text in texts:
            copy.write_row(
                (text.id, text.chunk, text.partition_key, text.text_hash, text.tokens or None)
            )


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


def work(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet | None,
    origins: Sequence[Origin],
    max_tokens: int,
) -> Work:
    """What a set, or one that is yet to be made, will lack once the texts are up to date."""
    connection.execute("drop table if exists lacking")
    missing_now = on.fill(
        """
        select t.{id} as id, t.chunk, t.text_hash, t.tokens
        from {pending}
            and not exists (select from changed_rows c where c.id = t.{id})
            and not exists (select from gone_rows g where g.id = t.{id})
        """,
        pending=pending_of(on, vector_set),
    )
    missing_then = on.fill(
        """
        select p.id, p.chunk, p.text_hash, p.tokens
        from planned p left join {vectors} v on v.{id} = p.id and v.chunk = p.chunk
        where p.text_hash is not null and v.text_hash is distinct from p.text_hash
            and not {left_alone}
        """,
        left_alone=left_alone(on, vector_set, "p", Identifier("id")),
        vectors=on.vectors(vector_set.table_name if vector_set else None),
    )
    connection.execute(
        on.fill(
            "create temporary table lacking as {now} union all {then}",
            now=missing_now,
            then=missing_then,
        )
    )
    return lacking(connection, on, "lacking", origins, max_tokens)


def lacking(
    connection: Connection[Row],
    on: Statements,
    table: str,
    origins: Sequence[Origin],
    max_tokens: int,
) -> Work:
    """Sum up a temporary table of (id, chunk, text_hash, tokens).

    Of a text no more than `max_tokens` count, which is what the model reads. Tokens that are null
    are taken to be as many as the others' mean.
    """
    known = [
        on.fill(
            "exists (select from {table} o where o.text_hash = l.text_hash)",
            table=origin.table,
        )
        for origin in origins
    ]
    at_hand = sql.SQL(" or ").join(known) if known else sql.SQL("false")
    return Work(
        *on.one(
            connection,
            """
            with texts as (
                select l.text_hash, count(*) as chunks, {at_hand} as at_hand,
                    case when max(l.tokens) > {max_tokens} then {max_tokens} else max(l.tokens) end
                        as tokens
                from {lacking} l group by l.text_hash
            )
            select
                coalesce(sum(chunks), 0)::bigint,
                coalesce(sum(chunks) - count(*) filter (where not at_hand), 0)::bigint,
                count(*) filter (where not at_hand),
                coalesce(round(avg(tokens) filter (where not at_hand)
                    * count(*) filter (where not at_hand)), 0)::bigint,
                (select count(distinct id) from {lacking})
            from texts
            """,
            at_hand=at_hand,
            max_tokens=sql.Literal(max_tokens),
            lacking=Identifier("pg_temp", table),
        )
    )


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
