"""Exports what is published of an entity to a folder that is searched without a database.

A snapshot on disk: an index file, a file of rows, and the manifest that names them.

The manifest is replaced last, in one step, and each export writes files of its own: whoever reads
finds the old snapshot or the new one, whole, and an export that is killed leaves the old one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from uuid import uuid4

import numpy as np
from psycopg import Connection
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.entities.fields import IdType
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.files import lock, sync, write_atomically
from embeddings_pipeline.store.connection import Postgres, Row
from embeddings_pipeline.store.index.build import default_lists
from embeddings_pipeline.store.search import published as published_sets
from embeddings_pipeline.store.search import snapshots as store
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.search.snapshots import Numbers, SnapshotRow
from embeddings_pipeline.sync.progress import Progress, Report, ignore_progress

try:
    import faiss
except ImportError:
    raise ConfigurationError(
        "snapshots need FAISS: `pip install 'embeddings-pipeline[faiss]'`"
    ) from None


# vectors with which the effort of a search is chosen
_QUERIES = 50


def export(
    database: Postgres,
    schema: str,
    entity: str,
    folder: Path,
    kind: Kind = "flat",
    report: Report = ignore_progress,
) -> Manifest:
    """Write a snapshot of what is published now; the folder holds the former one until it is
    whole. The index is built in memory, everything else goes through a batch at a time.

    Raises ConfigurationError where nothing is published or the folder cannot be written to, and
    EmbeddingsError where there is no vector or a file cannot be written.
    """
    with (
        held(folder),
        database.connection() as connection,
        store.one_moment(connection, schema, entity) as published,
    ):
        remove_leftovers(folder)
        work = _Export(connection, published, folder, kind, report)
        try:
            manifest = work.write()
        except (OSError, RuntimeError) as error:
            # FAISS says with a RuntimeError that a disk is full
            raise EmbeddingsError(f"the snapshot in {folder} was not written: {error}") from error
        commit(folder, manifest)
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
        entity, vector_set = self.published.names.source.entity, self.published.vector_set
        count = store.count(self.connection, self.published)
        if not count:
            raise EmbeddingsError(f"entity {entity.name!r} has no vectors to export")
        created_at = datetime.now(UTC)
        index = create_index(
            self.kind, vector_set.metric, vector_set.dimension, count, entity.index
        )
        sample = self._sample(index)
        paths = {
            "index": new_path(self.folder, "faiss"),
            "rows": new_path(self.folder, "sqlite"),
        }
        batches = self._added(index, count)
        store.write(paths["rows"], self.published.filters, batches)
        write_index(index, paths["index"])
        coverage, _ = published_sets.coverage(
            self.connection, self.published.names.schema, entity.name
        )
        return Manifest(
            entity=entity.name,
            id=entity.id,
            id_type=self.published.names.source.id_type,
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
            effort=least_effort(index, sample[:_QUERIES], entity.index.recall),
            count=index.ntotal,
            coverage=coverage,
            created_at=created_at,
            index=finished(paths["index"]),
            rows=finished(paths["rows"]),
        )

    def _sample(self, index: Any) -> Vectors:
        """Vectors to choose the effort with; an index that has to learn has learnt from more."""
        size = max(_QUERIES, training_rows(index))
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
            name, seconds = self.published.names.source.entity.name, time.monotonic() - started
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


Kind = Literal["flat", "ivf", "hnsw"]

_MANIFEST = "manifest.json"
_FILES = ("*.faiss", "*.sqlite", f"{_MANIFEST}.*")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Part):
    """A file beside the manifest."""

    # no path: a manifest can name nothing else
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.(faiss|sqlite)$")]
    bytes: int
    sha256: str


class Manifest(_Part):
    """What a snapshot holds. `count` is that of the vectors, `coverage` the percentage of rows
    that had vectors, `columns` the filter columns and Postgres' types of them; `effort` is efSearch
    or nprobe, None where the index is exact."""

    format: Literal[1] = 1
    entity: str
    id: str
    id_type: IdType
    chunked: bool
    provider: str
    model: str
    revision: str
    max_tokens: int
    normalized: bool
    dimension: int
    vector_set: int
    storage: Literal["vector", "halfvec"]
    metric: Literal["cosine", "l2", "ip"]
    columns: dict[str, str]
    kind: Kind
    effort: int | None
    count: int
    coverage: float
    created_at: datetime
    index: File
    rows: File

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors these are, and that encodes queries."""
        return ModelIdentity(
            self.provider,
            self.model,
            self.revision,
            self.dimension,
            self.max_tokens,
            self.normalized,
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for one export.

    Raises ConfigurationError where it cannot be written to or another export holds it.
    """
    busy = f"another export is writing to {folder}"
    with ExitStack() as holds:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holds.enter_context(lock(folder / ".lock", seconds=0, busy=busy))
        except OSError as error:
            raise ConfigurationError(f"a snapshot cannot be written to {folder}: {error}") from None
        yield


def new_path(folder: Path, suffix: Literal["faiss", "sqlite"]) -> Path:
    """Where a file of a new snapshot goes."""
    return folder / f"{uuid4().hex}.{suffix}"


def finished(path: Path) -> File:
    """A file that was written, once it is safe on disk."""
    sync(path)
    return File(name=path.name, bytes=path.stat().st_size, sha256=_sha256(path))


def commit(folder: Path, manifest: Manifest) -> None:
    """Make this the snapshot, then remove what belongs to none."""
    write_atomically(folder / _MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what an export left that was killed, or that was replaced."""
    kept = {_MANIFEST}
    if (folder / _MANIFEST).exists():
        manifest = read_manifest(folder)
        kept |= {manifest.index.name, manifest.rows.name}
    for pattern in _FILES:
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink()


def read_manifest(folder: Path) -> Manifest:
    """Raises ConfigurationError where there is no snapshot, EmbeddingsError where it is damaged."""
    try:
        return Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"there is no snapshot in {folder} ({error.strerror}): write one with"
            f" `embeddings-pipeline export ENTITY --to {folder}`"
        ) from None
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()
        )
        raise EmbeddingsError(f"the manifest in {folder} is damaged: {found}") from None


def verify(folder: Path, file: File) -> Path:
    """The file, unless it is another than what was written. Raises EmbeddingsError then."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise EmbeddingsError(f"{path} is damaged: {size:,} bytes instead of {file.bytes:,}")
        if _sha256(path) != file.sha256:
            raise EmbeddingsError(f"{path} is damaged: its sha256 is not that of the manifest")
    except OSError as error:
        raise EmbeddingsError(f"{path} cannot be read: {error.strerror}") from None
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Scores: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float32]]

# efSearch and nprobe to try, in order
_EFFORTS = (10, 20, 40, 80, 160, 320, 640, 1000)
_K = 10
# vectors for each list to find its centre: FAISS warns below 39 and takes no more than 256
_TRAINING = 64


def create_index(kind: Kind, metric: str, dimension: int, rows: int, options: Index) -> Any:
    """An empty index for so many rows; HNSW with the `m` and `ef_construction` of the options."""
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlat(dimension, measure)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, options.m, measure)
        index.hnsw.efConstruction = options.ef_construction
        return index
    centres = faiss.IndexFlat(dimension, measure)
    index = faiss.IndexIVFFlat(centres, dimension, options.lists or default_lists(rows), measure)
    # a small table has few rows for its one list
    index.cp.min_points_per_centroid = 1
    return index


def training_rows(index: Any) -> int:
    """How many vectors to train with; 0 where there is nothing to learn."""
    return index.nlist * _TRAINING if isinstance(index, faiss.IndexIVFFlat) else 0


def write_index(index: Any, path: Path) -> None:
    """Write an index to a file. Raises RuntimeError where the disk does not take it."""
    faiss.write_index(index, str(path))


def read_index(path: Path) -> Any:
    """An index from a file, ready to be searched and to give vectors back."""
    index = faiss.read_index(str(path))
    if isinstance(index, faiss.IndexIVFFlat):
        index.make_direct_map()
    return index


def nearest(
    index: Any, vector: Vectors, k: int, *, effort: int | None = None, among: Numbers | None = None
) -> tuple[Scores, Numbers]:
    """The k nearest to a vector of shape (1, dimension), or those among some, or fewer: their
    similarities, descending, and their numbers. Without an effort it is an exact search."""
    searched, parameters = index, faiss.SearchParameters
    more: dict[str, int] = {}
    if isinstance(index, faiss.IndexHNSWFlat):
        if effort is None:
            searched = faiss.downcast_index(index.storage)
        else:
            parameters, more = faiss.SearchParametersHNSW, {"efSearch": max(effort, k)}
    elif isinstance(index, faiss.IndexIVFFlat):
        parameters, more = faiss.SearchParametersIVF, {"nprobe": effort or index.nlist}
    selector = None if among is None else faiss.IDSelectorBatch(among)
    found, numbers = searched.search(vector, k, params=parameters(sel=selector, **more))
    present = numbers[0] >= 0
    return _similarity(index, found[0][present]), numbers[0][present]


def least_effort(index: Any, sample: Vectors, target: float) -> int | None:
    """The least effort at which recall@10 reaches the target, or the greatest; None for an index
    that is exact."""
    if isinstance(index, faiss.IndexFlat):
        return None
    exact = [nearest(index, query[None], _K)[0] for query in sample]
    for effort in _EFFORTS:
        found = [nearest(index, query[None], _K, effort=effort)[0] for query in sample]
        # as near as the exact tenth is a hit, whichever of two equals it is
        hits = [
            (near >= far[-1] - 1e-6).sum() / len(far)
            for near, far in zip(found, exact, strict=True)
        ]
        if np.mean(hits) >= target:
            break
    return effort


def _similarity(index: Any, found: Scores) -> Scores:
    if index.metric_type != faiss.METRIC_L2:
        return found
    # FAISS gives squares
    return (1 / (1 + np.sqrt(np.maximum(found, 0)))).astype(np.float32)
