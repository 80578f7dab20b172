"""Staging in a database that does not look at what it stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.fields import bind
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.staging.source import staging_columns
from embeddings_pipeline.store.tables import TableNames
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import TextsResult, sync_texts
from tests.support.world import SCHEMA, World


@pytest.fixture
def staged(database: Database) -> Iterator[Postgres]:
    """Seven rows; two have a value that is not valid in any encoding."""
    ascii_ = replace(database, name=f"{database.name}_ascii")
    name = Identifier(ascii_.name)
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        connection.execute(
            SQL(
                "create database {} template template0 encoding 'SQL_ASCII' locale_provider libc"
                " lc_collate 'C' lc_ctype 'C'"
            ).format(name)
        )
        with closing(Postgres(ascii_)) as postgres:
            with postgres.connection() as staging_:
                staging_.execute("create schema staging")
                staging_.execute("create table staging.stg_item (id bigint, name text, kind text)")
                staging_.execute(
                    "insert into staging.stg_item select n, case n when 3 then E'\\xff\\xfe\\x41'"
                    " else 'thing ' || n end, case n when 5 then E'\\xff' end"
                    " from generate_series(1, 7) n"
                )
            yield postgres
        connection.execute(SQL("drop database {} with (force)").format(name))


def pass_over(world: World, staged: Postgres) -> TextsResult:
    item = world.declare(include=["name"], filters=["kind"])
    with staged.connection() as connection:
        columns = staging_columns(connection, item.db_schema, item.table)
    names = TableNames(SCHEMA, bind(item, columns))
    return sync_texts(staged, world.postgres, names, world.encoders, RunOptions("run"))


def test_a_row_that_cannot_be_read_is_put_aside_and_the_others_are_stored(
    world: World, staged: Postgres
) -> None:
    result = pass_over(world, staged)

    assert (result.read, result.quarantined) == (7, 2)
    stored = world.sql(f"select id, text from {SCHEMA}.item_texts where text is not null")
    assert sorted(stored) == [(n, f"name: thing {n}") for n in (1, 2, 4, 6, 7)]
    failed = world.sql(f"select id, stage, error from {SCHEMA}.quarantine order by id")
    assert [(row_id, stage) for row_id, stage, _ in failed] == [("3", "render"), ("5", "render")]
    assert "cannot be read: invalid byte sequence" in failed[0][2]
    assert pass_over(world, staged).read == 0

    with staged.connection() as connection:
        connection.execute("update staging.stg_item set name = 'thing 3' where id = 3")
    pass_over(world, staged)
    assert world.sql(f"select id from {SCHEMA}.quarantine") == [("5",)]
