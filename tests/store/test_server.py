"""What is said of a database that vectors cannot be kept in, and that the remedy named helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import schema as store_schema
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.migrations import create_control_tables

SCHEMA = "vectors of mine"
CONTROL_TABLES = [
    *("cache_candidates", "claims", "entities", "erasures", "model_identities"),
    *(
        "quality_history",
        "quarantine",
        "renewals",
        "retrieval_checks",
        "run_ledger",
        "schema_version",
        "vector_sets",
    ),
]


@pytest.fixture
def bare(superuser: Database) -> Iterator[Database]:
    """A database without the vector extension."""
    bare = replace(superuser, name=f"{superuser.name}_bare")
    with closing(psycopg.connect(superuser.url, autocommit=True)) as admin:
        admin.execute(SQL("create database {}").format(Identifier(bare.name)))
        yield bare
        admin.execute(SQL("drop database {} with (force)").format(Identifier(bare.name)))


def run(database: Database, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def create(database: Database) -> None:
    with closing(Postgres(database)) as pool, pool.connection() as connection:
        create_control_tables(connection, SCHEMA)


def refusal(database: Database) -> str:
    with pytest.raises(ConfigurationError) as error:
        create(database)
    assert "\n" not in str(error.value)
    return str(error.value)


def remedy(message: str) -> str:
    found = re.search(r"run `([^`]+)`", message)
    assert found, message
    return found[1]


def tables(database: Database) -> list[object]:
    query = f"select tablename from pg_tables where schemaname = '{SCHEMA}' order by 1"
    return [name for (name,) in run(database, query)]


def test_a_superuser_needs_nothing_prepared(bare: Database) -> None:
    create(bare)
    assert tables(bare) == CONTROL_TABLES
    create(bare)


def test_first_runs_at_once_do_not_meet(bare: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        for run_ in [threads.submit(create, bare) for _ in range(8)]:
            run_.result(30)
    assert tables(bare) == CONTROL_TABLES


def test_a_server_that_is_too_old_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_schema, "MINIMUM_SERVER", 990000)
    assert re.fullmatch(
        rf"the server of database '{database.name}' is Postgres 1\d; 99 is the oldest that works",
        refusal(database),
    )


def test_a_pgvector_that_is_too_old_is_named(
    superuser: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_schema, "OLDEST_PGVECTOR", "9.1")
    message = refusal(superuser)
    assert re.match(r"pgvector is \d+\.\d+\.\d+; 9\.1 is the oldest that works", message)
    assert message.endswith(" as a superuser")
    run(superuser, remedy(message))


def test_a_missing_extension_is_named_with_what_to_run(bare: Database, role: Database) -> None:
    poor = replace(role, name=bare.name)
    message = refusal(poor)
    assert message.startswith(f"database '{bare.name}' lacks the extension vector (permission")
    run(bare, remedy(message))
    assert "may not create schema" in refusal(poor)


def test_an_extension_that_is_not_installed_is_named(
    bare: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Postgres(bare)) as pool, pool.connection() as connection:
        original = connection.execute
        monkeypatch.setattr(
            connection,
            "execute",
            lambda query, *values: original(
                str(query).replace("extension vector", "extension nowhere"), *values
            ),
        )
        with pytest.raises(ConfigurationError, match=r"nowhere.*not available.*install pgvector"):
            store_schema._ensure_extension(connection)


def test_an_extension_that_may_not_be_used_is_named_with_what_to_run(
    database: Database, role: Database
) -> None:
    run(database, "create schema extensions")
    run(database, "alter extension vector set schema extensions")
    run(database, f'create schema "{SCHEMA}" authorization {role.user}')
    message = refusal(role)
    assert message.startswith(f"user '{role.user}' may not use schema 'extensions'")
    run(database, remedy(message))
    create(role)
    assert tables(database) == CONTROL_TABLES


def test_a_schema_that_may_not_be_created_is_named_with_what_to_run(
    database: Database, role: Database
) -> None:
    message = refusal(role)
    assert message.startswith(
        f"user '{role.user}' may not create schema '{SCHEMA}' in database '{database.name}'"
    )
    run(database, remedy(message))
    create(role)
    assert tables(database) == CONTROL_TABLES


def test_a_schema_that_may_not_be_written_to_is_named_with_what_to_run(
    database: Database, role: Database
) -> None:
    run(database, f'create schema "{SCHEMA}"')
    message = refusal(role)
    assert message.startswith(f"user '{role.user}' may not keep tables in schema '{SCHEMA}'")
    run(database, remedy(message))
    create(role)
    assert tables(database) == CONTROL_TABLES


def test_tables_of_another_role_are_named(database: Database, role: Database) -> None:
    create(database)
    run(database, f'grant create, usage on schema "{SCHEMA}" to {role.user}')
    message = refusal(role)
    assert "permission denied for table schema_version" in message
    assert message.endswith("or use the role that owns the tables")
    run(database, f'grant all on all tables in schema "{SCHEMA}" to {role.user}')
    assert "must be owner of table cache_candidates" in refusal(role)


def test_a_role_that_is_set_to_read_only_is_told_how_to_write(
    database: Database, role: Database
) -> None:
    run(database, f'create schema "{SCHEMA}" authorization {role.user}')
    run(database, f"alter role {role.user} set default_transaction_read_only = on")
    message = refusal(role)
    assert f"database '{database.name}' is read-only" in message
    run(database, remedy(message))
    create(role)


def test_a_refused_first_run_leaves_nothing_behind(bare: Database, role: Database) -> None:
    run(bare, f'grant create on database "{bare.name}" to {role.user}')
    refusal(replace(role, name=bare.name))
    assert run(bare, f"select 1 from pg_namespace where nspname = '{SCHEMA}'") == []
