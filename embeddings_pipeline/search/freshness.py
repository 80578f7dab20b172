"""How much of an entity can be found and how old that is, without counting it for each search."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from embeddings_pipeline.store import published, search_session
from embeddings_pipeline.store.postgres import Postgres

# counting reads the texts and vectors whole
_SECONDS = 10


@dataclass(frozen=True)
class Covered:
    """What `Answer` says of coverage and lag, and when that was counted."""

    coverage: float
    data_lag_seconds: float
    counted_at: float


class Freshness:
    """Counts in the background once a value is ten seconds old; only the first ask waits."""

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Covered] = {}
        self._counting: dict[str, Future[Covered]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coverage")

    def of(self, entity: str) -> Covered:
        """Coverage and lag as they were a few seconds ago."""
        known = self._known.get(entity)
        if known is None:
            return self._count(entity)
        under_way = self._counting.get(entity)
        stale = time.monotonic() - known.counted_at > _SECONDS
        if stale and (under_way is None or under_way.done()):
            self._counting[entity] = self._thread.submit(self._count, entity)
        return known

    def close(self) -> None:
        """Wait for what is being counted."""
        self._thread.shutdown()

    def _count(self, entity: str) -> Covered:
        with self._database.connection() as connection:
            # a search through an index forbids it
            search_session.use(connection, {"enable_seqscan": "on"})
            coverage, lag = published.coverage(connection, self._schema, entity)
        self._known[entity] = Covered(coverage, lag, time.monotonic())
        return self._known[entity]
