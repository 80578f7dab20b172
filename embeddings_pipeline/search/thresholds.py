"""Leaves out what is not near enough to what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from embeddings_pipeline.search.requests import AnyRequest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.search_dense import least_similarity


class _Scored(Protocol):
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def near_enough(
    request: AnyRequest, settings: Settings, metric: str, found: Sequence[S]
) -> Sequence[S]:
    """Those whose similarity reaches what the request asks for, or else the settings."""
    asked = request.min_similarity
    if asked is None and request.max_distance is None:
        asked = settings.embedding_similarity_threshold
    least = least_similarity(metric, asked, request.max_distance)
    return [row for row in found if least is None or row.score >= least]
