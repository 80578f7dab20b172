"""Exports what is published of an entity to a folder that is searched without a database."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import Connection

from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.store import export as store
from embeddings_pipeline.store import published as published_sets
from embeddings_pipeline.store import snapshot_rows
from embeddings_pipeline.store.postgres import Postgres, Row
from embeddings_pipeline.store.published import Published
from embeddings_pipeline.store.snapshot_rows import SnapshotRow
from embeddings_pipeline.sync import faiss_index, snapshot_folder
from embeddings_pipeline.sync.faiss_index import Vectors
from embeddings_pipeline.sync.progress import Progress, Report, unheard
from embeddings_pipeline.sync.snapshot_folder import Kind, Manifest

# vectors with which the effort of a search is chosen
_QUERIES = 50


def export(
    database: Postgres,
    schema: str,
    entity: str,
    folder: Path,
    kind: Kind = "flat",
    report: Report = unheard,
) -> Manifest:
    """Write a snapshot of what is published now; the folder holds the former one until it is
    whole. The index is built in memory, everything else goes through a batch at a time.

    Raises ConfigurationError where nothing is published or the folder cannot be written to, and
    EmbeddingsError where there is no vector or a file cannot be written.
    """
    with (
        snapshot_folder.held(folder),
        database.connection() as connection,
        store.one_moment(connection, schema, entity) as published,
    ):
        snapshot_folder.remove_leftovers(folder)
        work = _Export(connection, published, folder, kind, report)
        try:
            manifest = work.write()
        except (OSError, RuntimeError) as error:
            # FAISS says with a RuntimeError that a disk is full
            raise EmbeddingsError(f"the snapshot in {folder} was not written: {error}") from error
        snapshot_folder.commit(folder, manifest)
    return manifest


@dataclass(frozen=True)
class _Export:
    connection: Connection[Row]
    published: Published
    folder: Path
    kind: Kind
    report: Report

    def write(self) -> Manifest:
        """Write the two files; returns the manifest that names them."""
        entity, vector_set = self.published.on.source.entity, self.published.vector_set
        count = store.count(self.connection, self.published)
        if not count:
            raise EmbeddingsError(f"entity {entity.name!r} has no vectors to export")
        created_at = datetime.now(UTC)
        index = faiss_index.create(
            self.kind, vector_set.metric, vector_set.dimension, count, entity.index
        )
        sample = self._sample(index)
        paths = {
            "index": snapshot_folder.new_path(self.folder, "faiss"),
            "rows": snapshot_folder.new_path(self.folder, "sqlite"),
        }
        batches = self._added(index, count)
        snapshot_rows.write(paths["rows"], self.published.filters, batches)
        faiss_index.write(index, paths["index"])
        coverage, _ = published_sets.coverage(
            self.connection, self.published.on.schema, entity.name
        )
        return Manifest(
            entity=entity.name,
            id=entity.id,
            id_type=self.published.on.source.id_type,
            chunked=entity.chunk is not None,
            provider=vector_set.provider,
            model=vector_set.model,
            revision=vector_set.revision,
            max_tokens=vector_set.max_tokens,
            normalized=vector_set.normalized,
            dimension=vector_set.dimension,
            vector_set=vector_set.number,
            storage=vector_set.storage,
            metric=vector_set.metric,
            columns=self.published.filters,
            kind=self.kind,
            effort=faiss_index.least_effort(index, sample[:_QUERIES], entity.index.recall),
            count=index.ntotal,
            coverage=coverage,
            created_at=created_at,
            index=snapshot_folder.finished(paths["index"]),
            rows=snapshot_folder.finished(paths["rows"]),
        )

    def _sample(self, index: Any) -> Vectors:
        """Vectors to choose the effort with; an index that has to learn has learnt from more."""
        size = max(_QUERIES, faiss_index.training_rows(index))
        sample, _ = self._comparable(store.sample(self.connection, self.published, size))
        if not index.is_trained:
            index.train(sample)
        return sample

    def _added(self, index: Any, count: int) -> Iterator[Sequence[SnapshotRow]]:
        """The rows of each batch, whose vectors are in the index by then."""
        started = time.monotonic()
        for batch in store.batches(self.connection, self.published):
            vectors, norms = self._comparable(batch.vectors)
            first = index.ntotal
            index.add(vectors)
            yield [
                SnapshotRow(first + n, *row, norm=float(norms[n]))
                for n, row in enumerate(batch.rows)
            ]
            name, seconds = self.published.on.source.entity.name, time.monotonic() - started
            self.report(Progress(name, index.ntotal, count, seconds, unit="vectors"))

    def _comparable(
        self, vectors: Vectors
    ) -> tuple[Vectors, np.ndarray[tuple[int], np.dtype[np.float32]]]:
        """The vectors as the index compares them, and their norms: FAISS has no cosine, but the
        inner product of vectors of length 1 is one."""
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        if self.published.vector_set.metric != "cosine":
            return vectors, np.ones_like(norms)
        return vectors / np.maximum(norms, np.finfo(np.float32).tiny)[:, None], norms
