"""Advisory locks: they keep two runs from doing the same work. Correctness never rests on them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Connection

from embeddings_pipeline.errors import Busy
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables

# asked again and again: a statement that waits holds a snapshot, and that holds back vacuum and
# `create index concurrently`, perhaps of the very run that is waited for
_POLL_SECONDS = 0.2


@contextmanager
def entity(tables: EntityTables, patience: float = math.inf) -> Iterator[None]:
    """Hold the entity for texts, publish or erase; waits for whoever has it.

    Raises Busy where that takes longer than `patience` seconds.
    """
    with _held(tables.connection, f"{tables.schema}/{tables.entity}", patience):
        yield


@contextmanager
def index(tables: EntityTables, table: str) -> Iterator[None]:
    """Hold the index of a vector set; waits for whoever builds it."""
    with _held(tables.connection, f"{tables.schema}/{table}/index"):
        yield


def _taken(connection: Connection[Row], name: str) -> bool:
    row = connection.execute(
        "select pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)
    ).fetchone()
    return row == (True,)


@contextmanager
def _held(connection: Connection[Row], name: str, patience: float = math.inf) -> Iterator[None]:
    until = time.monotonic() + patience
    while not _taken(connection, name):
        if time.monotonic() > until:
            raise Busy("another run is at work on the same rows: try again later")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        # with a broken connection the lock is gone already
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", (name,))
