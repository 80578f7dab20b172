"""Exports the published set of an entity to a folder, for searches without a database.

A snapshot is an index file, a file of rows, and a manifest that names both. Each export writes new
files, and replaces the manifest last, in one step. So readers find the complete old snapshot or the
complete new one, and a killed export leaves the old one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embeddings_pipeline.entities.entity import Index, Metric, Storage
from embeddings_pipeline.entities.fields import IdType
from embeddings_pipeline.entities.model import ModelIdentity, SnapshotType
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.files import lock, sync, write_atomically
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.index.build import default_lists
from embeddings_pipeline.store.search import snapshots as store
from embeddings_pipeline.store.search.snapshots import Numbers, PublishedRows, SnapshotRow
from embeddings_pipeline.sync.progress import Progress, Report, ignore_progress

try:
    import faiss
except ImportError:
    raise ConfigurationError(
        "snapshots need FAISS: `pip install 'embeddings-pipeline[faiss]'`"
    ) from None


# queries with which the effort of searches is chosen
_QUERIES = 50


def export(
    database: Postgres,
    schema: str,
    entity: str,
    folder: Path,
    kind: SnapshotType = "flat",
    report: Report = ignore_progress,
) -> Manifest:
    """Write a snapshot of the published set. The folder keeps the old snapshot until the new one is
    complete. The index is built in memory; rows are written batch by batch.

    Raises ConfigurationError where nothing is published or the folder is not writable, and
    EmbeddingsError where there are no vectors or a file cannot be written.
    """
    with (
        held(folder),
        database.connection() as connection,
        store.one_moment(connection, schema, entity) as rows,
    ):
        remove_leftovers(folder)
        work = _Export(rows, folder, kind, report)
        try:
            manifest = work.write()
        except (OSError, RuntimeError) as error:
            # FAISS raises RuntimeError when the disk is full
            raise EmbeddingsError(f"the snapshot in {folder} was not written: {error}") from error
        commit(folder, manifest)
    return manifest


@dataclass(frozen=True)
class _Export:
    rows: PublishedRows
    folder: Path
    kind: SnapshotType
    report: Report

    def write(self) -> Manifest:
        """Write the two files; returns the manifest that names them."""
        published = self.rows.published
        source, vector_set = published.names.source, published.vector_set
        entity = source.entity
        count = self.rows.count()
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
        store.write(paths["rows"], published.filters, batches)
        write_index(index, paths["index"])
        return Manifest(
            entity=entity.name,
            id=entity.id,
            id_type=source.id_type,
            chunked=entity.chunk is not None,
            **asdict(vector_set.identity),
            vector_set=vector_set.number,
            storage=vector_set.storage,
            metric=vector_set.metric,
            columns=published.filters,
            kind=self.kind,
            effort=least_effort(index, sample[:_QUERIES], entity.index.recall),
            count=index.ntotal,
            coverage=self.rows.coverage(),
            created_at=created_at,
            index=finished(paths["index"]),
            rows=finished(paths["rows"]),
        )

    def _sample(self, index: Any) -> Vectors:
        """Vectors with which to choose the effort. Also trains an index that needs training."""
        size = max(_QUERIES, training_rows(index))
        sample, _ = self._comparable(self.rows.sample(size))
        if not index.is_trained:
            index.train(sample)
        return sample

    def _added(self, index: Any, count: int) -> Iterator[Sequence[SnapshotRow]]:
        """The rows of each batch, after its vectors were added to the index."""
        started = time.monotonic()
        for batch in self.rows.batches():
            vectors, norms = self._comparable(batch.vectors)
            first = index.ntotal
            index.add(vectors)
            yield [
                SnapshotRow(first + n, *row, norm=float(norms[n]))
                for n, row in enumerate(batch.rows)
            ]
            name, seconds = self.rows.published.names.source.entity.name, time.monotonic() - started
            self.report(Progress(name, index.ntotal, count, seconds, unit="vectors"))

    def _comparable(
        self, vectors: Vectors
    ) -> tuple[Vectors, np.ndarray[tuple[int], np.dtype[np.float32]]]:
        """The vectors as the index compares them, and their norms. FAISS has no cosine, but the
        inner product of normalized vectors is the same."""
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        if self.rows.published.vector_set.metric != "cosine":
            return vectors, np.ones_like(norms)
        return vectors / np.maximum(norms, np.finfo(np.float32).tiny)[:, None], norms


_MANIFEST = "manifest.json"
_FILES = ("*.faiss", "*.sqlite", f"{_MANIFEST}.*")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Part):
    """A file beside the manifest."""

    # the pattern excludes paths outside the folder
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.(faiss|sqlite)$")]
    bytes: int
    sha256: str


class Manifest(_Part):
    """The content of a snapshot. `count` is the number of vectors, `coverage` the percentage of
    rows with vectors, `columns` the filter columns with their Postgres types. `effort` is efSearch
    or nprobe, None for an exact index."""

    format: Literal[4] = 4
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
    document_prompt: str
    query_prompt: str = ""
    vector_set: int
    storage: Storage
    metric: Metric
    columns: dict[str, str]
    kind: SnapshotType
    effort: int | None
    count: int
    coverage: float
    created_at: datetime
    index: File
    rows: File

    @property
    def identity(self) -> ModelIdentity:
        """The model of the vectors, which also encodes queries."""
        return ModelIdentity.of(self)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder for one export, and create it where it is missing.

    Raises ConfigurationError where it is not writable, or where another export holds it.
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
    """The path of a new file of a snapshot."""
    return folder / f"{uuid4().hex}.{suffix}"


def finished(path: Path) -> File:
    """The entry of a written file, after it was synced to disk."""
    sync(path)
    return File(name=path.name, bytes=path.stat().st_size, sha256=_sha256(path))


def commit(folder: Path, manifest: Manifest) -> None:
    """Make this the current snapshot, then remove other files."""
    write_atomically(folder / _MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove files of killed exports and of replaced snapshots."""
    kept = {_MANIFEST}
    if (folder / _MANIFEST).exists():
        manifest = read_manifest(folder)
        kept |= {manifest.index.name, manifest.rows.name}
    for pattern in _FILES:
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises ConfigurationError where there is no snapshot,
    EmbeddingsError where the manifest is damaged."""
    try:
        return Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"there is no snapshot in {folder} ({error.strerror}): write one with"
            f" `embeddings-pipeline export ENTITY --to {folder}`"
        ) from None
    except ValidationError as error:
        if any(e["loc"] == ("format",) for e in error.errors()):
            raise EmbeddingsError(
                f"the snapshot in {folder} has the format of another version of"
                " embeddings-pipeline: export it again"
            ) from None
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()
        )
        raise EmbeddingsError(f"the manifest in {folder} is damaged: {found}") from None


def verify(folder: Path, file: File) -> Path:
    """The path of a file. Raises EmbeddingsError where its content is not what was written."""
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
# training vectors per list: FAISS warns below 39 and uses at most 256
_TRAINING = 64


def create_index(kind: SnapshotType, metric: str, dimension: int, rows: int, options: Index) -> Any:
    """An empty index for `rows` rows; HNSW takes `m` and `ef_construction` from the options."""
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlat(dimension, measure)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, options.m, measure)
        index.hnsw.efConstruction = options.ef_construction
        return index
    centres = faiss.IndexFlat(dimension, measure)
    index = faiss.IndexIVFFlat(centres, dimension, options.lists or default_lists(rows), measure)
    # a small table has few rows for its single list
    index.cp.min_points_per_centroid = 1
    return index


def training_rows(index: Any) -> int:
    """How many vectors the training needs; 0 for an index without training."""
    return index.nlist * _TRAINING if isinstance(index, faiss.IndexIVFFlat) else 0


def write_index(index: Any, path: Path) -> None:
    """Write an index to a file. Raises RuntimeError where that fails."""
    faiss.write_index(index, str(path))


def read_index(path: Path, manifest: Manifest) -> Any:
    """Read an index from a file, ready for searches and for the reconstruction of vectors.

    Raises EmbeddingsError for a file that is not the index of this manifest.
    """
    try:
        index = faiss.read_index(str(path))
        wrong = _mismatch(index, manifest)
        if not wrong and manifest.kind == "ivf":
            index.make_direct_map()
    # FAISS raises these for a file that is cut, or has other numbers than it needs
    except (RuntimeError, AssertionError, MemoryError, AttributeError) as error:
        wrong = " ".join(f"{type(error).__name__} {error}".split())
    if wrong:
        raise EmbeddingsError(f"{path} is damaged ({wrong}): export the entity again")
    return index


_CLASSES = {
    "flat": faiss.IndexFlat,
    "ivf": faiss.IndexIVFFlat,
    "hnsw": faiss.IndexHNSWFlat,
}


def _mismatch(index: Any, manifest: Manifest) -> str | None:
    """How an index differs from what its manifest says; None where it does not."""
    if not isinstance(index, _CLASSES[manifest.kind]):
        return f"{type(index).__name__} instead of {manifest.kind}"
    found = {"dimension": index.d, "vectors": index.ntotal, "metric": index.metric_type}
    measure = faiss.METRIC_L2 if manifest.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    wanted = {"dimension": manifest.dimension, "vectors": manifest.count, "metric": measure}
    for name, number in found.items():
        if number != wanted[name]:
            return f"{name} {number} instead of {wanted[name]}"
    return None


def nearest(
    index: Any, vector: Vectors, k: int, *, effort: int | None = None, among: Numbers | None = None
) -> tuple[Scores, Numbers]:
    """At most k nearest to a vector of shape (1, dimension), all or only those `among` these
    numbers: their similarities, descending, and their numbers. The search is exact without an
    effort."""
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
    """The lowest effort at which recall@10 reaches the target, or else the highest; None for an
    exact index. `sample` are stored vectors, in no order of meaning."""
    if isinstance(index, faiss.IndexFlat):
        return None
    # as far from the stored vectors as queries are, which store/index/recall.py explains
    queries = (sample + np.roll(sample, 1, axis=0)) / 2
    exact = [nearest(index, query[None], _K)[0] for query in queries]
    for effort in _EFFORTS:
        found = [nearest(index, query[None], _K, effort=effort)[0] for query in queries]
        # equal distances have no order, so that a hit is any vector as near as the exact tenth
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
    # FAISS returns squared distances
    return (1 / (1 + np.sqrt(np.maximum(found, 0)))).astype(np.float32)
