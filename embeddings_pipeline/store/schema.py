"""The tables that all entities share."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.errors import (
    InsufficientPrivilege,
    ReadOnlySqlTransaction,
)
from psycopg.sql import Identifier

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import terms
from embeddings_pipeline.store.postgres import Row, columns_of
from embeddings_pipeline.store.server import check_server

_CONTROL_TABLES = (
    """
    create table if not exists {schema}.entities (
        entity text primary key,
        definition jsonb not null,
        definition_hash text not null,
        id_type text not null,
        partition_scheme text not null,
        publish_held boolean not null default false,
        last_pass_at timestamptz
    )
    """,
    """
    create table if not exists {schema}.vector_sets (
        entity text not null references {schema}.entities on delete cascade,
        number int not null,
        provider text not null,
        model text not null,
        revision text not null,
        dimension int not null,
        storage text not null,
        metric text not null,
        max_tokens int not null,
        normalized boolean not null,
        table_name text not null,
        state text not null check (state in ('building', 'live', 'retired')),
        created_at timestamptz not null default now(),
        published_at timestamptz,
        index_settings jsonb,
        index_rows bigint,
        recall double precision,
        ef_search int,
        primary key (entity, number)
    )
    """,
    """
    create unique index if not exists vector_sets_one_live
        on {schema}.vector_sets (entity) where state = 'live'
    """,
    """
    create table if not exists {schema}.quarantine (
        entity text not null,
        id text not null,
        chunk int not null,
        -- whose model failed; 0 for what failed before any model
        vector_set int not null default 0,
        stage text not null check (stage in ('partition', 'render', 'encode')),
        error text not null,
        attempts int not null default 1,
        text_hash bytea,
        first_seen timestamptz not null default now(),
        last_seen timestamptz not null default now(),
        primary key (entity, id, chunk, vector_set)
    )
    """,
    """
    create table if not exists {schema}.erasures (
        entity text not null,
        id text not null,
        erased_at timestamptz not null default now(),
        primary key (entity, id)
    )
    """,
    """
    create table if not exists {schema}.evictions (
        entity text not null,
        text_hash bytea not null,
        noted_at timestamptz not null default clock_timestamp(),
        primary key (entity, text_hash)
    )
    """,
    """
    create table if not exists {schema}.run_ledger (
        entity text not null,
        run_id text not null,
        kind text not null,
        partition_keys text[] not null default '{{}}',
        model text,
        device text,
        started_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz,
        plan jsonb,
        read bigint not null default 0,
        pending bigint not null default 0,
        encoded bigint not null default 0,
        reused bigint not null default 0,
        deleted bigint not null default 0,
        quarantined bigint not null default 0,
        truncated bigint not null default 0,
        tokens bigint not null default 0,
        cost_usd numeric not null default 0,
        seconds double precision not null default 0,
        encode_seconds double precision not null default 0,
        primary key (entity, run_id)
    )
    """,
)

# columns that tables made by an earlier version lack
_ADDED_COLUMNS = {
    ("run_ledger", "cached"): sql.SQL("bigint not null default 0"),
    ("run_ledger", "saved_usd"): sql.SQL("numeric not null default 0"),
    ("vector_sets", "indexed_at"): sql.SQL("timestamptz"),
    ("vector_sets", "canary"): sql.SQL("jsonb"),
    ("vector_sets", "force_since"): sql.SQL("timestamptz"),
    ("vector_sets", "force_keys"): sql.SQL("text[]"),
    ("evictions", "noted_at"): sql.SQL("timestamptz not null default clock_timestamp()"),
    ("entities", "documents"): sql.SQL("bigint"),
    ("entities", "average_tokens"): sql.SQL("double precision"),
    ("entities", "counted_at"): sql.SQL("timestamptz"),
}


def create_control_tables(connection: Connection[Row], schema: str) -> None:
    """Create what is missing of the shared tables. Raises ConfigurationError on a lacking
    extension or privilege."""
    try:
        with connection.transaction():
            # two first runs at once would both find the extension, the schema or a table missing
            connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", ("schema",))
            check_server(connection, schema)
            for statement in _CONTROL_TABLES:
                connection.execute(sql.SQL(statement).format(schema=Identifier(schema)))
            _add_columns(connection, schema)
            terms.create_function(connection, schema)
    except InsufficientPrivilege as error:
        user = connection.info.user
        raise ConfigurationError(
            f"user {user!r} may not keep tables in schema {schema!r}"
            f" ({error.diag.message_primary}): run"
            f' `grant create, usage on schema "{schema}" to "{user}"`, or use the role that owns'
            " the tables"
        ) from None
    except ReadOnlySqlTransaction:
        raise ConfigurationError(
            f"database {connection.info.dbname!r} is read-only for user {connection.info.user!r},"
            " perhaps a replica; vectors need one that can be written to"
        ) from None


def _add_columns(connection: Connection[Row], schema: str) -> None:
    for (table, column), definition in _ADDED_COLUMNS.items():
        # `if not exists` would lock the table all the same
        if column not in columns_of(connection, schema, table):
            connection.execute(
                sql.SQL("alter table {} add column {} {}").format(
                    Identifier(schema, table), Identifier(column), definition
                )
            )


def vector_tables(connection: Connection[Row], schema: str, entity: str) -> list[str]:
    """Names of the tables of every vector set of the entity, whatever its state."""
    rows = connection.execute(
        sql.SQL("select table_name from {} where entity = %s order by number").format(
            Identifier(schema, "vector_sets")
        ),
        (entity,),
    )
    return [name for (name,) in rows]
