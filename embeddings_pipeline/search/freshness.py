"""How much of an entity can be found and how old that is, without counting it for each search."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import psycopg

from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.search import published, session

# counting reads the texts and vectors whole
_SECONDS = 10
# the first to ask waits so long at the most
_PATIENCE_SECONDS = 1


@dataclass(frozen=True)
class Covered:
    """What `Answer` says of coverage and lag, None where it is not counted yet; and when it was."""

    coverage: float | None = None
    data_lag_seconds: float | None = None
    counted_at: float = 0.0


class Freshness:
    """Counts in the background once a value is ten seconds old. No search fails because a count
    does, or takes long."""

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Covered] = {}
        self._counting: dict[str, Future[Covered]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coverage")
        self._lock = Lock()

    def of(self, entity: str) -> Covered:
        """Coverage and lag as they were a few seconds ago."""
        known = self._known.get(entity)
        if known is not None and time.monotonic() - known.counted_at <= _SECONDS:
            return known
        counting = self._counted(entity)
        if known is None:
            with suppress(TimeoutError, psycopg.Error):
                return counting.result(_PATIENCE_SECONDS)
        return known or Covered()

    def close(self) -> None:
        """Wait for what is being counted."""
        self._thread.shutdown()

    def _counted(self, entity: str) -> Future[Covered]:
        """The count that is under way, or a new one."""
        with self._lock:
            counting = self._counting.get(entity)
            if counting is None or counting.done():
                counting = self._counting[entity] = self._thread.submit(self._count, entity)
            return counting

    def _count(self, entity: str) -> Covered:
        with self._database.connection() as connection:
            # a search through an index forbids it
            session.use(connection, {"enable_seqscan": "on"})
            coverage, lag = published.coverage(connection, self._schema, entity)
        self._known[entity] = Covered(coverage, lag, time.monotonic())
        return self._known[entity]
