"""The threshold of a search: results below it are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import AnyRequest, mode_of
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.search.published_search import Counts, Hit


def apply_threshold(
    request: AnyRequest, settings: Settings, metric: str, found: Sequence[Hit]
) -> Sequence[Hit]:
    """Return the rows that reach the request's threshold, or EMBEDDING_SIMILARITY_THRESHOLD. The
    scores of modes text and hybrid have none."""
    if mode_of(request) != "dense":
        return found
    least = least_similarity(metric, *_bounds(request, settings))
    return [row for row in found if least is None or row.score >= least]


def bounded(
    counts: Counts,
    request: AnyRequest,
    settings: Settings,
    wanted: int,
    found: Sequence[Hit],
    kept: Sequence[Hit],
) -> Counts:
    """Return the counts of a search for `wanted` rows that found these, of which the threshold kept
    some. Rows that the threshold leaves out do not match; facets count them."""
    if len(kept) < len(found) or len(found) < min(wanted, counts.rows):
        # a vector of zeros is never found
        return replace(counts, rows=len(kept), exact=True)
    if mode_of(request) == "dense" and any(b is not None for b in _bounds(request, settings)):
        return replace(counts, rows=len(kept), exact=counts.exact and len(kept) == counts.rows)
    # counts may be some seconds older than the rows
    return replace(counts, rows=max(counts.rows, len(kept)))


def _bounds(request: AnyRequest, settings: Settings) -> tuple[float | None, float | None]:
    min_similarity = request.min_similarity
    if min_similarity is None and request.max_distance is None:
        min_similarity = settings.embedding_similarity_threshold
    return min_similarity, request.max_distance


def least_similarity(
    metric: str, min_similarity: float | None, max_distance: float | None
) -> float | None:
    """The lowest similarity of a result; None where there is no bound.

    A distance is that of pgvector: the cosine distance, the Euclidean distance, or the negative
    inner product.
    """
    bounds = [min_similarity] if min_similarity is not None else []
    if max_distance is not None:
        if metric == "l2" and max_distance < 0:
            raise ConfigurationError(
                f"max_distance {max_distance} is below 0: an l2 distance is not negative"
            )
        similarity = {
            "cosine": 1 - max_distance,
            "l2": 1 / (1 + max_distance) if metric == "l2" else 0,
            "ip": -max_distance,
        }
        bounds.append(similarity[metric])
    return max(bounds, default=None)
