"""What the vectors' database must have: a server that is new enough, pgvector and our schema."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UndefinedFile

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.postgres import Row

MINIMUM_SERVER = 140000
# the first with hnsw.iterative_scan
MINIMUM_PGVECTOR = (0, 8)


def check_server(connection: Connection[Row], schema: str) -> None:
    """Make sure of Postgres, pgvector and the schema.

    Raises ConfigurationError that says what to run where one is missing.
    """
    version = connection.info.server_version
    if version < MINIMUM_SERVER:
        raise ConfigurationError(
            f"the server of database {connection.info.dbname!r} is Postgres {version // 10000};"
            f" {MINIMUM_SERVER // 10000} is the oldest that works"
        )
    _ensure_extension(connection)
    _ensure_schema(connection, schema)


def _ensure_extension(connection: Connection[Row]) -> None:
    found = connection.execute(
        "select extversion from pg_extension where extname = 'vector'"
    ).fetchone()
    if found is None:
        try:
            connection.execute("create extension vector")
        except (InsufficientPrivilege, FeatureNotSupported, UndefinedFile) as error:
            raise ConfigurationError(
                f"database {connection.info.dbname!r} lacks the extension vector"
                f" ({error.diag.message_primary}): install pgvector on the server and run"
                " `create extension vector` as a superuser"
            ) from None
    elif tuple(int(part) for part in found[0].split(".")[:2]) < MINIMUM_PGVECTOR:
        raise ConfigurationError(
            f"pgvector is {found[0]}; {'.'.join(map(str, MINIMUM_PGVECTOR))} is the oldest that"
            " works: upgrade it and run `alter extension vector update`"
        )


def _ensure_schema(connection: Connection[Row], schema: str) -> None:
    # `if not exists` asks for the right to create one even where it exists
    if connection.execute("select 1 from pg_namespace where nspname = %s", (schema,)).fetchone():
        return
    user, database = connection.info.user, connection.info.dbname
    try:
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    except InsufficientPrivilege:
        raise ConfigurationError(
            f"user {user!r} may not create schema {schema!r} in database {database!r}: run"
            f' `create schema "{schema}" authorization "{user}"` as its owner'
        ) from None
