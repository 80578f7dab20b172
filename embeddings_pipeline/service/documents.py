"""Brings single rows up to date on an HTTP request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from uuid import uuid4

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.service.schemas import Document, Documents
from embeddings_pipeline.store import declarations
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.sync.documents import sync_documents
from embeddings_pipeline.sync.run_options import RunOptions

# time to wait for a run that holds the same rows, which also encodes them
PATIENCE_SECONDS = 10


class DocumentSync:
    """Syncs given rows of entities as a run does."""

    def __init__(
        self, pipeline: Pipeline, database: Callable[[], Postgres], stopping: Event
    ) -> None:
        self._pipeline = pipeline
        self._database = database
        self._stopping = stopping

    def sync(self, name: str, ids: Sequence[str | int]) -> Documents:
        """Sync the rows with these ids and return the outcome of each.

        Raises NotFound for an unknown entity, and the errors of `sync_documents`.
        """
        pipeline = self._pipeline
        with self._database().connection() as connection:
            entity = declarations.stored_entity(connection, pipeline.schema, name)
        result = sync_documents(
            pipeline.staging,
            pipeline.vectors,
            pipeline.names_of(entity),
            pipeline.encoders,
            RunOptions(
                run_id=f"documents-{uuid4()}",
                ids=[str(row_id) for row_id in ids],
                max_cost_usd=pipeline.settings.embedding_max_cost_usd,
                patience=PATIENCE_SECONDS,
                stopped=self._stopping.is_set,
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
