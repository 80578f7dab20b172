"""Databases of a test's own: copies of one that is made once, since a copy takes a tenth of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from typing import Concatenate, ParamSpec

import psycopg
import pytest
from psycopg.errors import DuplicateDatabase, InsufficientPrivilege
from psycopg.sql import SQL, Identifier

from embeddings_pipeline.database import Database
from tests.support.world import World, world_in

P = ParamSpec("P")

# the processes of one run of the tests may share a server
_PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "alone")
_NUMBERS = count(1)
_MAINTENANCE = "postgres"


@contextmanager
def copy_of(template: Database) -> Iterator[Database]:
    """A copy of a database to which nobody is connected, dropped after the block."""
    made = replace(template, name=f"test_{_PROCESS}_{next(_NUMBERS)}")
    _copy(template, made)
    try:
        yield made
    finally:
        _drop(made)


def begun(world: World) -> None:
    """Prepares nothing more than the tables of a world."""


def needs_version(database: Database, version: int) -> None:
    """Skip the test on a server before this version."""
    with closing(psycopg.connect(database.url)) as connection:
        if connection.info.server_version < version * 10_000:
            pytest.skip(f"takes Postgres {version}")


def needs_superuser(database: Database) -> None:
    """Skip the test in a role of another kind, which TEST_DATABASE_URL may name."""
    with closing(psycopg.connect(database.url)) as connection:
        row = connection.execute("select current_setting('is_superuser')").fetchone()
    if row != ("on",):
        pytest.skip("takes a superuser")


class Templates:
    """Databases that are made once, to be copied: an empty one with pgvector, and others by what
    is done in them."""

    def __init__(self, server: Database) -> None:
        self._made: list[Database] = []
        self.empty = self._copied(server)
        self._prepared: dict[Hashable, Database] = {}

    def prepared(
        self, prepare: Callable[Concatenate[World, P], object], *args: P.args, **kwargs: P.kwargs
    ) -> Database:
        """The database of a world that was prepared with these arguments."""
        key = (prepare, args, *kwargs.items())
        if key not in self._prepared:
            made = self._copied(self.empty)
            with world_in(made) as world:
                prepare(world, *args, **kwargs)
            self._prepared[key] = made
        return self._prepared[key]

    def restore(
        self,
        world: World,
        prepare: Callable[Concatenate[World, P], object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Give a new world the database that it has once it is prepared with these arguments."""
        template = self.prepared(prepare, *args, **kwargs)
        _drop(world.database)
        _copy(template, world.database)

    def drop(self) -> None:
        """Leave the server without them."""
        for made in self._made:
            _drop(made)
        _maintenance(replace(self.empty, name=_MAINTENANCE)).close()
        _maintenance.cache_clear()

    def _copied(self, database: Database) -> Database:
        made = replace(database, name=f"template_{_PROCESS}_{next(_NUMBERS)}")
        _copy(database, made)
        self._made.append(made)
        return made


def _copy(template: Database, made: Database) -> None:
    connection = _maintenance(replace(template, name=_MAINTENANCE))
    # a copy of files waits for a checkpoint: a second where that has to reach the disk. Else it is
    # faster than the default since Postgres 15, which writes the pages to the log
    flushes = connection.execute("select current_setting('fsync')::bool").fetchone()
    files = flushes == (False,) and connection.info.server_version >= 150_000
    strategy = " strategy file_copy" if files else ""
    statement = SQL("create database {} template {}" + strategy).format(
        Identifier(made.name), Identifier(template.name)
    )
    try:
        connection.execute(statement)
    except DuplicateDatabase:
        # tests that were killed left it on a server that outlives them
        _drop(made)
        connection.execute(statement)


def _drop(database: Database) -> None:
    connection = _maintenance(replace(database, name=_MAINTENANCE))
    drop = SQL("drop database {}").format(Identifier(database.name))
    try:
        connection.execute(drop + SQL(" with (force)"))
    except InsufficientPrivilege:
        # autovacuum is in it, which only a superuser may end, and which a plain drop ends
        connection.execute(drop)


@cache
def _maintenance(database: Database) -> psycopg.Connection:
    """A connection that copies and drops other databases of the server, for all tests: to connect
    takes as long as a copy."""
    return psycopg.connect(database.url, autocommit=True)
