"""Answers search requests from an exported snapshot, without a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.search.query_vectors import Encode, vector_of
from embeddings_pipeline.search.requests import (
    Answer,
    AnyRequest,
    ImageRequest,
    Rows,
    SearchRequest,
    SimilarRequest,
    counted,
    page_size,
)
from embeddings_pipeline.search.threshold import apply_threshold, bounded
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.index.build import better_compared
from embeddings_pipeline.store.search.published_search import Hit
from embeddings_pipeline.store.search.snapshots import Numbers, SnapshotRows
from embeddings_pipeline.sync import snapshot
from embeddings_pipeline.sync.snapshot import Manifest, Scores, Vectors

# chunks searched for each row where rows have several; also the factor of a repeated search
_CHUNKS_PER_ROW = 4


@dataclass(frozen=True)
class _Files:
    manifest: Manifest
    index: Any
    rows: SnapshotRows


class Snapshot:
    """Answers searches by vector, similar rows and images as `Searcher` does. Thread-safe.

    Close a snapshot or use it in a `with`. A later export does not change an open snapshot. Raises
    ConfigurationError where the folder has no snapshot, EmbeddingsError for a damaged file.
    """

    def __init__(self, folder: Path, settings: Settings, encode: Encode) -> None:
        self._settings = settings
        self._encode = encode
        files = _open(folder)
        self.manifest, self._index, self._rows = files.manifest, files.index, files.rows

    def search(self, request: SearchRequest) -> Answer:
        """Return the rows whose vectors are nearest to the query's vector.

        Raises ConfigurationError for other modes, for `rerank` and for `highlight`, which need a
        database.
        """
        if request.mode != "dense" or request.rerank or request.highlight:
            raise ConfigurationError(
                "a snapshot answers only searches by vector: use mode dense, without rerank and"
                " highlight"
            )
        self._check(request)
        vector = vector_of(request, self.manifest.identity, self._encode)
        return self._answer(request, vector, exclude=None)

    def similar(self, request: SimilarRequest) -> Answer:
        """Return the rows nearest to a stored row, without that row.

        Raises ConfigurationError where the row is not in the snapshot.
        """
        self._check(request)
        (row_id,) = self._source.canonical_ids([request.id])
        chunks = self._rows.of(row_id)
        if not chunks:
            raise ConfigurationError(
                f"entity {request.entity!r}: row {request.id!r} is not in the snapshot"
            )
        vectors = [self._index.reconstruct(number) * norm for number, norm in chunks]
        return self._answer(request, np.mean(vectors, axis=0), exclude=row_id)

    def by_image(self, request: ImageRequest) -> Answer:
        """Return the rows nearest to an image. Raises as `Searcher.by_image` does."""
        self._check(request)
        return self._answer(request, self._encode(self.manifest.identity, request.image), None)

    def rows(self, entity: str, ids: Sequence[str]) -> Rows:
        """Return the rows with these ids. Raises as `Searcher.rows` does."""
        self._check_entity(entity)
        canonical = self._source.canonical_ids(ids)
        rows = self._rows.by_id(canonical)
        missing = [given for given, key in zip(ids, canonical, strict=True) if key not in rows]
        found = [rows[key] for key in dict.fromkeys(canonical) if key in rows]
        return Rows(entity, found, missing)

    def close(self) -> None:
        """Close the file of rows."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _source(self) -> Source:
        manifest = self.manifest
        entity = Entity(name=manifest.entity, db_schema="", table="", id=manifest.id)
        return Source(entity, {}, manifest.id_type, (), {})

    def _check(self, request: AnyRequest) -> None:
        self._check_entity(request.entity)
        if request.columns:
            raise ConfigurationError(
                "columns of the staging model are not in a snapshot: declare them as filters"
            )
        if request.histograms or request.facet_prefix is not None:
            raise ConfigurationError(
                "histograms and facet_prefix need the database: a snapshot counts facets as a whole"
            )

    def _check_entity(self, entity: str) -> None:
        if entity != self.manifest.entity:
            raise ConfigurationError(
                f"the snapshot is of entity {self.manifest.entity!r}, not {entity!r}"
            )

    def _answer(self, request: AnyRequest, vector: Vector, exclude: str | None) -> Answer:
        manifest = self.manifest
        top_k = page_size(request, self._settings.embedding_similarity_top_k)
        wanted = request.sort.among if request.sort else request.offset + top_k
        among = self._rows.passing(request.filters.plain(), exclude)
        found = self._found(self._comparable(vector), wanted, among, exact=request.exact)
        hits = apply_threshold(request, self._settings, manifest.metric, found)
        counts = None
        if request.total or request.facets:
            counts = self._rows.counts(among, request.facets)
            counts = bounded(counts, request, self._settings, wanted, found, hits)
        if request.sort:
            descending = request.sort.order == "desc"
            hits = self._rows.sorted(hits, request.sort.by, descending=descending)
        results = hits[request.offset : request.offset + top_k]
        if request.vectors:
            results = [replace(hit, vector=self._vector(hit)) for hit in results]
        return Answer(
            entity=manifest.entity,
            mode="dense",
            results=results,
            coverage=manifest.coverage,
            # changes after the export are unknown, so the lag counts from the export
            data_lag_seconds=(datetime.now(UTC) - manifest.created_at).total_seconds(),
            model=manifest.model,
            vector_set=manifest.vector_set,
            shortfall=top_k - len(results),
            best_similarity=found[0].score if found else None,
            **counted(request, counts),
        )

    def _vector(self, hit: Hit) -> list[float]:
        number, norm = self._rows.place(hit.id, hit.chunk)
        vector: list[float] = (self._index.reconstruct(number) * norm).tolist()
        return vector

    def _found(
        self, vector: Vectors, top_k: int, among: Numbers | None, *, exact: bool
    ) -> list[Hit]:
        """Return the best chunk of each of the `top_k` nearest rows; fewer where no more match."""
        total = self.manifest.count
        passing = total if among is None else len(among)
        few = among is not None and better_compared(passing, total, top_k)
        effort = None if exact or few else self.manifest.effort
        # one more than is wanted, to see that it is farther
        chunks = top_k * (_CHUNKS_PER_ROW if self.manifest.chunked else 1) + 1
        while True:
            scores, numbers = snapshot.nearest(
                self._index, vector, min(chunks, total), effort=effort, among=among
            )
            hits = self._best_chunks(scores, numbers)
            # of chunks as near as the last one, any may have been left out
            if len(numbers) >= passing or (
                len(hits) >= top_k and scores[-1] < hits[top_k - 1].score
            ):
                return hits[:top_k]
            if len(numbers) >= chunks:
                # several chunks belonged to one row, or are equally near
                chunks *= _CHUNKS_PER_ROW
            elif effort is None:
                return hits[:top_k]
            else:
                effort = None

    def _best_chunks(self, scores: Scores, numbers: Numbers) -> list[Hit]:
        score_of = dict(zip(numbers.tolist(), scores.tolist(), strict=True))
        rows = self._rows.numbered(numbers)
        best: dict[str, Hit] = {}
        for row in sorted(rows, key=lambda row: (-score_of[row.number], row.chunk)):
            score = score_of[row.number]
            hit = Hit(row.id, row.chunk, score, row.text, row.fields, *row.shown)
            best.setdefault(row.id, hit)
        number = self.manifest.id_type == "bigint"
        return sorted(best.values(), key=lambda h: (-h.score, int(h.id) if number else h.id))

    def _comparable(self, vector: Vector) -> Vectors:
        """Return a query in the form of the stored vectors, rounded to half precision like them."""
        query = np.asarray(vector, dtype=np.float32)
        if self.manifest.storage == "halfvec":
            query = query.astype(np.float16).astype(np.float32)
        if self.manifest.metric == "cosine":
            query = query / max(float(np.linalg.norm(query)), float(np.finfo(np.float32).tiny))
        return query[None].astype(np.float32)


def _open(folder: Path) -> _Files:
    manifest = snapshot.read_manifest(folder)
    try:
        return _open_verified(folder, manifest)
    except EmbeddingsError:
        newer = snapshot.read_manifest(folder)
        if newer == manifest:
            raise
        # a new export replaced the files while they were read
        return _open_verified(folder, newer)


def _open_verified(folder: Path, manifest: Manifest) -> _Files:
    # no file is parsed before its checksum was verified
    index = snapshot.verify(folder, manifest.index)
    rows = snapshot.verify(folder, manifest.rows)
    read = snapshot.read_index(index, manifest)
    return _Files(manifest, read, SnapshotRows(rows, manifest.columns, manifest.count))
