"""The `model_identities` table: each model as it is used, and the name of its cache table."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from psycopg import Connection, sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.store.connection import Row, only
from embeddings_pipeline.store.vector_sets import StoredIdentity

_COLUMNS = sql.SQL("provider, model, revision, dimension, max_tokens, normalized, document_prompt")


def find(
    connection: Connection[Row], schema: str, identity: ModelIdentity
) -> StoredIdentity | None:
    """The stored identity; None where no vector set ever had it."""
    row = connection.execute(
        sql.SQL(
            """
            select number, cache_table from {identities}
            where ({columns}) = (%(provider)s, %(model)s, %(revision)s, %(dimension)s,
                %(max_tokens)s, %(normalized)s, %(document_prompt)s)
            """
        ).format(identities=Identifier(schema, "model_identities"), columns=_COLUMNS),
        asdict(identity),
    ).fetchone()
    return StoredIdentity(row[0], identity, row[1]) if row else None


def ensure(connection: Connection[Row], schema: str, identity: ModelIdentity) -> StoredIdentity:
    """The stored identity and its cache table; creates both where they are missing.

    Call it in a transaction: it holds a lock until the transaction ends.
    """
    _lock(connection, schema)
    found = find(connection, schema, identity)
    if found is None:
        created = connection.execute(
            sql.SQL(
                """
                insert into {identities} (number, cache_table, {columns})
                select n, 'embedding_cache_' || n, %(provider)s, %(model)s, %(revision)s,
                    %(dimension)s, %(max_tokens)s, %(normalized)s, %(document_prompt)s
                from (select coalesce(max(number), 0) + 1 as n from {identities}) as next
                returning number, cache_table
                """
            ).format(identities=Identifier(schema, "model_identities"), columns=_COLUMNS),
            asdict(identity),
        )
        number, cache_table = only(created)
        found = StoredIdentity(number, identity, cache_table)
    connection.execute(
        sql.SQL(
            """
            create table if not exists {cache} (
                text_hash uuid primary key,
                embedding vector({dimension}) not null,
                version bigint not null,
                encoded_at timestamptz not null default clock_timestamp(),
                run_id text not null
            );
            -- statistics of a few rows are enough, and statistics of vectors are useless
            alter table {cache} alter column embedding set statistics 0,
                alter column text_hash set statistics 10, alter column version set statistics 10,
                alter column encoded_at set statistics 0, alter column run_id set statistics 0
            """
        ).format(cache=Identifier(schema, found.cache_table), dimension=Literal(identity.dimension))
    )
    connection.execute(
        sql.SQL(
            "update {} set unused_since = null where number = %s and unused_since is not null"
        ).format(Identifier(schema, "model_identities")),
        (found.number,),
    )
    return found


def _lock(connection: Connection[Row], schema: str) -> None:
    """Let `ensure` and `clear_unused` take turns, until the transaction ends."""
    connection.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"identities/{schema}",)
    )


def all_of(connection: Connection[Row], schema: str) -> list[StoredIdentity]:
    """Every identity, by number."""
    rows = connection.execute(
        sql.SQL("select number, cache_table, {} from {} order by number").format(
            _COLUMNS, Identifier(schema, "model_identities")
        )
    )
    return [StoredIdentity(row[0], ModelIdentity(*row[2:]), row[1]) for row in rows]


def clear_unused(connection: Connection[Row], schema: str, keep: dict[int, timedelta]) -> list[str]:
    """Empty the caches of identities that no live or building set uses; returns their models.

    `keep` gives, by number, how long an identity keeps its cache after its last set was retired.
    """
    with connection.transaction():
        # no set begins to use an identity between the decision and the truncation
        _lock(connection, schema)
        return _clear_unused(connection, schema, keep)


def _clear_unused(
    connection: Connection[Row], schema: str, keep: dict[int, timedelta]
) -> list[str]:
    connection.execute(
        sql.SQL(
            """
            update {identities} i
            set unused_since = case when not used.now then clock_timestamp() end
            from (
                select i.number, exists (
                    select from {sets} s where s.identity = i.number and s.state <> 'retired'
                ) as now from {identities} i
            ) as used
            -- a retired set may be live again
            where used.number = i.number and used.now <> (i.unused_since is null)
            """
        ).format(
            identities=Identifier(schema, "model_identities"),
            sets=Identifier(schema, "vector_sets"),
        )
    )
    unused = connection.execute(
        sql.SQL(
            "select number, cache_table, model, clock_timestamp() - unused_since from {}"
            " where unused_since is not null order by number"
        ).format(Identifier(schema, "model_identities"))
    ).fetchall()
    cleared = []
    for number, table, model, unused_for in unused:
        if unused_for < keep.get(number, timedelta()):
            continue
        cache = Identifier(schema, table)
        # truncate locks even an empty table
        row = connection.execute(sql.SQL("select exists (table {})").format(cache)).fetchone()
        if row == (True,):
            connection.execute(sql.SQL("truncate {}").format(cache))
            connection.execute(
                sql.SQL("delete from {} where identity = %s").format(
                    Identifier(schema, "quarantine")
                ),
                (number,),
            )
            cleared.append(model)
    return cleared
