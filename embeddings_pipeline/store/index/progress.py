"""The progress of an index build, read over a separate connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

import psycopg

from embeddings_pipeline.store.connection import Postgres

POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Phase:
    """A phase by its name in Postgres, and how many of its units are done: blocks of the table,
    rows, or sessions to wait for. The total is 0 where it is unknown."""

    name: str
    unit: str
    done: int
    total: int


@contextmanager
def watched(database: Postgres, backend: int, report: Callable[[Phase], None]) -> Iterator[None]:
    """Report every two seconds the progress of the build that this backend does in the block."""
    over = Event()
    thread = Thread(target=_watch, args=(database, backend, report, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(database: Postgres, backend: int, report: Callable[[Phase], None], over: Event) -> None:
    # the build reports a lost connection itself
    with suppress(psycopg.Error):
        while not over.wait(POLL_SECONDS):
            if phase := read(database, backend):
                report(phase)


def read(database: Postgres, backend: int) -> Phase | None:
    """The phase of the build in a backend; None where it builds no index."""
    with database.connection() as connection:
        row = connection.execute(
            """
            select phase, unit, done, total from pg_stat_progress_create_index
            cross join lateral (values
                (1, 'blocks', blocks_done, blocks_total), (2, 'rows', tuples_done, tuples_total),
                (3, 'sessions', lockers_done, lockers_total), (4, 'steps', 0, 0)
            ) as counted (n, unit, done, total)
            where pid = %s and (total > 0 or n = 4) order by n limit 1
            """,
            (backend,),
        ).fetchone()
    return Phase(*row) if row else None
