"""Coverage and data lag of an entity, counted in the background and not for each search."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import psycopg

from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.search import published, session

# lifetime of a value: counting reads whole tables of texts and vectors
_SECONDS = 10
# longest time that the first search of an entity waits for the count
PATIENCE_SECONDS = 1


@dataclass(frozen=True)
class Coverage:
    """Coverage in percent and lag in seconds, None before the first count; time of the count."""

    coverage: float | None = None
    data_lag_seconds: float | None = None
    counted_at: float = 0.0


class Freshness:
    """Counts the coverage of entities in the background, again after ten seconds.

    A count that fails or takes long does not fail a search.
    """

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Coverage] = {}
        self._counting: dict[str, Future[Coverage]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coverage")
        self._lock = Lock()

    def of(self, entity: str) -> Coverage:
        """Return the last counted coverage and lag of an entity."""
        known = self._known.get(entity)
        if known is not None and time.monotonic() - known.counted_at <= _SECONDS:
            return known
        counting = self._running_count(entity)
        if known is None:
            with suppress(TimeoutError, psycopg.Error):
                return counting.result(PATIENCE_SECONDS)
        return known or Coverage()

    def close(self) -> None:
        """Wait for running counts."""
        self._thread.shutdown()

    def _running_count(self, entity: str) -> Future[Coverage]:
        """Return the running count of the entity, or start one."""
        with self._lock:
            counting = self._counting.get(entity)
            if counting is None or counting.done():
                counting = self._counting[entity] = self._thread.submit(self._count, entity)
            return counting

    def _count(self, entity: str) -> Coverage:
        with self._database.connection() as connection:
            # searches by index disable sequential scans on pooled connections
            session.use(connection, {"enable_seqscan": "on"})
            coverage, lag = published.coverage(connection, self._schema, entity)
        self._known[entity] = Coverage(coverage, lag, time.monotonic())
        return self._known[entity]
