"""Advisory locks keep two runs from doing the same work. Correctness does not depend on them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Connection

from embeddings_pipeline.errors import Busy
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import EntityTables

# locks are polled: a waiting statement holds a snapshot, which blocks vacuum and `create index
# concurrently`, perhaps in the run that holds the lock
_POLL_SECONDS = 0.2


@contextmanager
def entity(tables: EntityTables, patience: float = math.inf) -> Iterator[None]:
    """Hold the lock of the entity for texts, publish or erase; waits for its holder.

    Raises Busy after `patience` seconds.
    """
    with _held(tables.connection, f"{tables.schema}/{tables.entity}", patience):
        yield


@contextmanager
def index(tables: EntityTables, table: str) -> Iterator[None]:
    """Hold the lock of a vector set's index; waits for its holder."""
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
        # a closed connection has released the lock
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", (name,))
