"""FAISS indexes that answer as pgvector does: similarities, the greater the nearer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.indexes import default_lists
from embeddings_pipeline.store.snapshot_rows import Numbers
from embeddings_pipeline.sync.snapshot_folder import Kind

try:
    import faiss
except ImportError:
    raise ConfigurationError(
        "snapshots need FAISS: `pip install 'embeddings-pipeline[faiss]'`"
    ) from None

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Scores: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float32]]

# efSearch and nprobe to try, in order
_EFFORTS = (10, 20, 40, 80, 160, 320, 640, 1000)
_K = 10
# vectors for each list to find its centre: FAISS warns below 39 and takes no more than 256
_TRAINING = 64


def create(kind: Kind, metric: str, dimension: int, rows: int, options: Index) -> Any:
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


def write(index: Any, path: Path) -> None:
    """Write an index to a file. Raises RuntimeError where the disk does not take it."""
    faiss.write_index(index, str(path))


def read(path: Path) -> Any:
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
