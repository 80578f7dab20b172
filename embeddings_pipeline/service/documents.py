"""Brings single rows up to date on an HTTP request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event
from uuid import uuid4

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.service.schemas import Document, Documents
from embeddings_pipeline.store import declarations
from embeddings_pipeline.store.connection import Deadlines, Postgres
from embeddings_pipeline.sync.documents import sync_documents
from embeddings_pipeline.sync.run_options import RunOptions

# time to wait for a turn and for what holds the same rows, in all; and time for the whole call
PATIENCE_SECONDS, CALL_SECONDS = 10.0, 60.0


class DocumentSync:
    """Syncs given rows of entities as a run does."""

    def __init__(
        self, pipeline: Pipeline, database: Callable[[], Postgres], stopping: Event
    ) -> None:
        self._pipeline = pipeline
        self._database = database
        self._stopping = stopping

    def begin(self, name: str, ids: Sequence[str | int]) -> Callable[[], Documents]:
        """Return the sync of the rows with these ids, which returns the outcome of each row.

        The time for it starts now. It raises NotFound for an unknown entity, Busy where another
        transaction holds the rows, and the errors of `sync_documents`.
        """
        return partial(self._sync, name, ids, time.monotonic())

    def _sync(self, name: str, ids: Sequence[str | int], began: float) -> Documents:
        pipeline = self._pipeline
        with self._database().connection() as connection:
            entity = declarations.stored_entity(connection, pipeline.schema, name)
        # what waits for a lock of another transaction ends as early as what waits for a run
        deadlines = Deadlines(began + PATIENCE_SECONDS, began + CALL_SECONDS)
        staging = pipeline.staging.with_deadlines(deadlines)
        result = sync_documents(
            staging,
            pipeline.vectors.with_deadlines(deadlines),
            pipeline.names_of(entity, staging),
            pipeline.encoders,
            RunOptions(
                run_id=f"documents-{uuid4()}",
                ids=[str(row_id) for row_id in ids],
                max_cost_usd=pipeline.settings.embedding_max_cost_usd,
                patience=max(0.0, began + PATIENCE_SECONDS - time.monotonic()),
                stopped=lambda: self._stopping.is_set() or time.monotonic() > began + CALL_SECONDS,
            ),
        )
        return Documents(
            entity=name,
            documents=[
                Document(id=outcome.id, status=outcome.status, reason=outcome.reason)
                for outcome in result.outcomes
            ],
            encoded=result.counts.encoded,
            reused=result.counts.reused,
            tokens=result.counts.tokens,
            cost_usd=result.counts.cost_usd,
        )
