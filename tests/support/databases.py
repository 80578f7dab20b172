"""Databases of a test's own: copies of one that is made once, since a copy takes a tenth of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from typing import Concatenate, ParamSpec

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from embeddings_pipeline.database import Database
from tests.support.world import World, world_in

P = ParamSpec("P")


@contextmanager
def copy_of(template: Database, name: str) -> Iterator[Database]:
    """A copy of a database to which nobody is connected, dropped after the block."""
    _copy(template, name)
    try:
        yield replace(template, name=name)
    finally:
        _drop(template, name)


def begun(world: World) -> None:
    """Prepares nothing more than the tables of a world."""


class Templates:
    """Databases that are made once, to be copied: an empty one with pgvector, and others by what
    is done in them."""

    def __init__(self, server: Database) -> None:
        self._numbers = count(1)
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
        name = world.database.name
        _drop(template, name)
        _copy(template, name)

    def _copied(self, database: Database) -> Database:
        made = replace(database, name=f"template_{next(self._numbers)}")
        _copy(database, made.name)
        return made


def _copy(template: Database, name: str) -> None:
    # the other strategy writes each page to the log
    statement = SQL("create database {} template {} strategy file_copy")
    _maintain(template, statement.format(Identifier(name), Identifier(template.name)))


def _drop(server: Database, name: str) -> None:
    _maintain(server, SQL("drop database {} with (force)").format(Identifier(name)))


def _maintain(server: Database, statement: Composed) -> None:
    with closing(psycopg.connect(replace(server, name="postgres").url, autocommit=True)) as admin:
        admin.execute(statement)
