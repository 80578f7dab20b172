"""The tables: those that all entities share, and each entity's own texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

from psycopg import Connection, sql
from psycopg.errors import (
    InsufficientPrivilege,
    InvalidSchemaName,
    ReadOnlySqlTransaction,
    UndefinedObject,
)
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS
from embeddings_pipeline.entities.source import Source
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import views
from embeddings_pipeline.store.postgres import Row, columns_of, trusted
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
        stage text not null check (stage in ('partition', 'render', 'encode')),
        error text not null,
        attempts int not null default 1,
        text_hash bytea,
        first_seen timestamptz not null default now(),
        last_seen timestamptz not null default now(),
        primary key (entity, id, chunk)
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


def vector_tables(connection: Connection[Row], schema: str, entity: str) -> list[str]:
    """Names of the tables of every vector set of the entity, whatever its state."""
    rows = connection.execute(
        sql.SQL("select table_name from {} where entity = %s order by number").format(
            Identifier(schema, "vector_sets")
        ),
        (entity,),
    )
    return [name for (name,) in rows]


def ensure_entity(connection: Connection[Row], schema: str, source: Source) -> None:
    """Create the entity's `texts`, or bring its filter columns up to date.

    Raises ConfigurationError where the type of the id changed, or where a filter's type is one
    that this database does not have.
    """
    entity = source.entity
    known = connection.execute(
        sql.SQL("select id_type, definition->>'id' from {} where entity = %s").format(
            Identifier(schema, "entities")
        ),
        (entity.name,),
    ).fetchone()
    if known is not None and known != (source.id_type, entity.id):
        raise ConfigurationError(
            f"entity {entity.name!r}: its id was {known[1]} ({known[0]}) and is now"
            f" {entity.id} ({source.id_type}): give the new one an `entity:` of its own"
        )
    with connection.transaction():
        _create_texts_and_filters(connection, schema, source)
        if known is None:
            connection.execute(
                sql.SQL(
                    "insert into {} (entity, definition, definition_hash, id_type,"
                    " partition_scheme) values (%s, %s, '', %s, %s) on conflict do nothing"
                ).format(Identifier(schema, "entities")),
                (
                    entity.name,
                    entity.declaration(),
                    source.id_type,
                    entity.partitions.model_dump_json(),
                ),
            )


def _create_texts_and_filters(connection: Connection[Row], schema: str, source: Source) -> None:
    try:
        _create_texts(connection, schema, source)
        _bring_filters_up_to_date(connection, schema, source)
    except (UndefinedObject, InvalidSchemaName) as error:
        raise ConfigurationError(
            f"entity {source.entity.name!r}: {error.diag.message_primary} in database"
            f" {connection.info.dbname!r}: cast the filter to a type of Postgres' own in the"
            " staging model"
        ) from None


def filter_columns(source: Source) -> sql.Composable:
    """`, name type` for each filter."""
    return sql.SQL("").join(
        sql.SQL(", {} {}").format(Identifier(name), trusted(kind))
        for name, kind in source.filters.items()
    )


def _create_texts(connection: Connection[Row], schema: str, source: Source) -> None:
    table = f"{source.entity.name}_texts"
    names = {
        "table": Identifier(schema, table),
        "id": Identifier(source.entity.id),
        "id_type": trusted(source.id_type),
        "filters": filter_columns(source),
        "by_partition": Identifier(f"{table}_by_partition"),
        "by_fingerprint": Identifier(f"{table}_by_fingerprint"),
    }
    for statement in (
        """
        create table if not exists {table} (
            {id} {id_type} not null,
            chunk int not null,
            partition_key text not null,
            fingerprint bigint not null,
            text text,
            parts text[],
            weights float8[],
            text_hash bytea,
            tokens int not null,
            source_changed_at timestamptz,
            serialised_at timestamptz not null default now(),
            primary key ({id}, chunk)
            {filters}
        )
        """,
        "create index if not exists {by_partition} on {table} (partition_key, {id}, chunk)"
        " include (text_hash) where text_hash is not null",
        "create index if not exists {by_fingerprint} on {table} (fingerprint) where chunk = 0",
    ):
        connection.execute(sql.SQL(statement).format(**names))


def _bring_filters_up_to_date(connection: Connection[Row], schema: str, source: Source) -> None:
    name = source.entity.name
    tables = [f"{name}_texts", *vector_tables(connection, schema, name)]
    changes = [
        change for table in tables for change in _filter_changes(connection, schema, table, source)
    ]
    if any(statement is _DROP for statement, _, _ in changes):
        views.drop_published(connection, schema, name)
    for statement, table, column in changes:
        connection.execute(
            sql.SQL(statement).format(
                table=Identifier(schema, table),
                column=Identifier(column),
                type=trusted(source.filters.get(column, "")),
            )
        )
    if changes:
        views.replace_published(connection, schema, name)


_DROP = "alter table {table} drop column {column}"
_ADD = "alter table {table} add column {column} {type}"


def _filter_changes(
    connection: Connection[Row], schema: str, table: str, source: Source
) -> Iterator[tuple[LiteralString, str, str]]:
    present = {
        column: kind
        for column, kind in columns_of(connection, schema, table).items()
        if column not in RESERVED_COLUMNS and column != source.entity.id
    }
    for column, kind in present.items():
        if source.filters.get(column) != kind:
            yield _DROP, table, column
    for column, kind in source.filters.items():
        if present.get(column) != kind:
            yield _ADD, table, column
