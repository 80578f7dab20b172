"""The threshold of a search: results below it are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import AnyRequest
from embeddings_pipeline.settings import Settings


class _Scored(Protocol):
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def apply_threshold(
    request: AnyRequest, settings: Settings, metric: str, found: Sequence[S]
) -> Sequence[S]:
    """Return the rows that reach the request's threshold, or EMBEDDING_SIMILARITY_THRESHOLD."""
    min_similarity = request.min_similarity
    if min_similarity is None and request.max_distance is None:
        min_similarity = settings.embedding_similarity_threshold
    least = least_similarity(metric, min_similarity, request.max_distance)
    return [row for row in found if least is None or row.score >= least]


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
