"""Measures the quality of an entity's search by queries with relevance judgements (qrels)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import get_args

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.sync.qrels import Qrels, ndcg, recall, reciprocal_rank

_DEPTH = 100


@dataclass(frozen=True)
class SearchQuality:
    """Means over the judged queries, from 0 to 1, of one mode, by exact search or by the index."""

    mode: Mode
    exact: bool
    ndcg_at_10: float
    recall_at_100: float
    mrr: float


def evaluate(searcher: Searcher, entity: str, qrels: Qrels) -> list[SearchQuality]:
    """Measure every mode, by exact search and by the index.

    Raises ConfigurationError where no query has a relevance judgement.
    """
    if not qrels.queries:
        raise ConfigurationError("no query has a relevant row: the qrels name none of the queries")
    return [
        measure(searcher, entity, qrels, mode, exact=exact)
        for mode in get_args(Mode)
        for exact in (True, False)
    ]


def measure(
    searcher: Searcher, entity: str, qrels: Qrels, mode: Mode, *, exact: bool
) -> SearchQuality:
    """Measure one mode over the first hundred results of each query.

    A query that is itself a row, as in ArguAna, does not count as its own result, as in BEIR
    (arxiv.org/abs/2104.08663).
    """

    def ranked_for(key: str, query: str) -> list[str]:
        request = SearchRequest.of(
            entity=entity, query=query, mode=mode, top_k=_DEPTH + 1, exact=exact
        )
        return [hit.id for hit in searcher.search(request).results if hit.id != key][:_DEPTH]

    ranked = {key: ranked_for(key, query) for key, query in qrels.queries.items()}
    return SearchQuality(mode, exact, *_means(ranked, qrels.relevant))


def _means(
    ranked: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]
) -> tuple[float, float, float]:
    return (
        fmean(ndcg(ids, relevant[query], 10) for query, ids in ranked.items()),
        fmean(recall(ids, relevant[query], _DEPTH) for query, ids in ranked.items()),
        fmean(reciprocal_rank(ids, relevant[query]) for query, ids in ranked.items()),
    )
