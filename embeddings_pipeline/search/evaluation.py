"""Measures the quality of an entity's search by queries with relevance judgements (qrels)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import Answer, Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.sync.quality.qrels import Qrels, ndcg, recall, reciprocal_rank

_DEPTH = 100
_TEXT_WEIGHTS = [tenths / 10 for tenths in range(11)]
_FEWEST_QUERIES = 20


@dataclass(frozen=True)
class SearchQuality:
    """Means over the judged queries, from 0 to 1, of one mode, by exact search or by the index."""

    mode: Mode
    exact: bool
    ndcg_at_10: float
    recall_at_100: float
    mrr: float


def published_rows(searcher: Searcher, entity: str, qrels: Qrels) -> tuple[Qrels, list[str]]:
    """The judgements of published rows, and the relevant ids without one, which are left out.

    Raises ConfigurationError for an id that is not of the type of the entity's ids, and where no
    relevant id has a published row.
    """
    ids = [*{row_id: None for grades in qrels.relevant.values() for row_id in grades}]
    stored = searcher.stored_ids(entity, ids)
    missing = [row_id for row_id in ids if row_id not in stored]
    if not stored:
        raise ConfigurationError(
            f"entity {entity!r} has no published row with any of the {len(ids):,} relevant ids,"
            f" such as {ids[0]!r}"
        )
    return qrels.among(stored), missing


def evaluate(
    searcher: Searcher, entity: str, qrels: Qrels, *, queries_are_rows: bool = False
) -> list[SearchQuality]:
    """Measure every mode, by exact search and by the index, over the first hundred results of each
    query.

    Where `queries_are_rows`, as in ArguAna, the id of a query is that of a row, which does not
    count as its own result (BEIR, arxiv.org/abs/2104.08663).

    Raises ConfigurationError where no query has a relevance judgement, and for a query that is too
    long to be searched.
    """
    if not qrels.queries:
        raise ConfigurationError("no query has a relevant row: the qrels name none of the queries")
    return [
        _measure(searcher, entity, qrels, mode, exact=exact, queries_are_rows=queries_are_rows)
        for mode in get_args(Mode)
        for exact in (True, False)
    ]


@dataclass(frozen=True)
class Tuning:
    """The weight of the words, from 0 to 1, with which hybrid search of a set found best, and
    whether to use it. `ndcg_at_10` and `untuned` are means over the queries, each measured with a
    weight that the other half of the queries chose, and with the weight as it was."""

    vector_set: int
    text_weight: float
    ndcg_at_10: float
    untuned: float

    @property
    def is_better(self) -> bool:
        """Whether queries that did not choose the weight gain by it, too."""
        return self.ndcg_at_10 > self.untuned


def tune(
    searcher: Searcher, entity: str, qrels: Qrels, *, queries_are_rows: bool = False
) -> Tuning:
    """Search the judged queries with each weight of the words, exactly.

    Raises ConfigurationError where there are too few queries to tell chance from quality.
    """
    if len(qrels.queries) < _FEWEST_QUERIES:
        raise ConfigurationError(
            f"tuning needs {_FEWEST_QUERIES} queries with a relevant row, and the qrels have"
            f" {len(qrels.queries)}: add queries, or keep the weight as it is"
        )
    searched: set[int] = set()

    def gains(weight: float | None) -> list[float]:
        found = []
        requests = _requests(
            qrels,
            entity=entity,
            mode="hybrid",
            text_weight=weight,
            top_k=10 + queries_are_rows,
            exact=True,
        )
        for key, request in requests.items():
            answer = searcher.search(request)
            searched.add(answer.vector_set)
            ids = _ids(answer, key if queries_are_rows else None)
            found.append(ndcg(ids, qrels.relevant[key], 10))
        return found

    by_weight = {weight: gains(weight) for weight in _TEXT_WEIGHTS}

    def best(part: slice) -> float:
        return max(by_weight, key=lambda weight: fmean(by_weight[weight][part]))

    one, other = slice(0, None, 2), slice(1, None, 2)
    verified = by_weight[best(other)][one] + by_weight[best(one)][other]
    untuned = fmean(gains(None))
    if len(searched) > 1:
        raise ConfigurationError(
            f"entity {entity!r}: another set was published meanwhile: tune again"
        )
    return Tuning(searched.pop(), best(slice(None)), fmean(verified), untuned)


def _measure(
    searcher: Searcher,
    entity: str,
    qrels: Qrels,
    mode: Mode,
    *,
    exact: bool,
    queries_are_rows: bool,
) -> SearchQuality:
    requests = _requests(
        qrels, entity=entity, mode=mode, top_k=_DEPTH + queries_are_rows, exact=exact
    )
    ranked = {
        key: _ids(searcher.search(request), key if queries_are_rows else None)[:_DEPTH]
        for key, request in requests.items()
    }
    return SearchQuality(mode, exact, *_means(ranked, qrels.relevant))


def _requests(qrels: Qrels, **options: Any) -> dict[str, SearchRequest]:
    """The search for each query. Raises ConfigurationError for a query that none is for, before
    any is searched."""
    requests = {}
    for key, query in qrels.queries.items():
        try:
            requests[key] = SearchRequest.of(query=query, **options)
        except ConfigurationError as error:
            raise ConfigurationError(f"judged query {key!r}: {error}") from None
    return requests


def _ids(answer: Answer, without: str | None) -> list[str]:
    return [hit.id for hit in answer.results if hit.id != without]


def _means(
    ranked: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]
) -> tuple[float, float, float]:
    return (
        fmean(ndcg(ids, relevant[query], 10) for query, ids in ranked.items()),
        fmean(recall(ids, relevant[query], _DEPTH) for query, ids in ranked.items()),
        fmean(reciprocal_rank(ids, relevant[query]) for query, ids in ranked.items()),
    )
