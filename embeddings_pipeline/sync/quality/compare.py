"""Compares another vector set with the live one. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import quality
from embeddings_pipeline.sync.quality.qrels import Qrels, mean_interval, ndcg, recall
from embeddings_pipeline.sync.quality.retrieval import rankings

_SAMPLE = 100
_K, _DEPTH = 10, 100


@dataclass(frozen=True)
class SetQuality:
    """Means over the judged queries, from 0 to 1, and the 95 % interval of the first."""

    number: int
    model: str
    ndcg_at_10: float
    ndcg_at_10_low: float
    ndcg_at_10_high: float
    recall_at_10: float
    recall_at_100: float


@dataclass(frozen=True)
class Comparison:
    """Two compared sets. `overlap_at_10` is the mean share of common nearest neighbours, with
    `sample` stored chunks as queries. `quality` is empty without qrels."""

    live: int
    other: int
    sample: int
    overlap_at_10: float
    quality: list[SetQuality]


def compare(
    database: Postgres, names: TableNames, encoders: Encoders, qrels: Qrels | None = None
) -> Comparison:
    """Compare the live set with the building one, or else with the last retired one.

    Raises ConfigurationError where there are not two sets, and SetDropped where another run drops
    one of them meanwhile.
    """
    with open_tables(database, names) as tables:
        live = vector_sets.live_set(tables)
        others = vector_sets.read(tables, ("retired", "building"))
        if live is None or not others:
            raise ConfigurationError(
                f"entity {names.source.entity.name!r} does not have two vector sets to compare"
            )
        pair = (live, max(others, key=lambda s: (s.state == "building", s.number)))
        sample = quality.shared_sample(tables, *pair, _SAMPLE)
        near = [quality.neighbours(tables, s, sample, _K) for s in pair]
        shares = [
            len(a & b) / max(len(a), len(b), 1) for a, b in zip(near[0], near[1], strict=True)
        ]
    return Comparison(
        live=pair[0].number,
        other=pair[1].number,
        sample=len(sample),
        overlap_at_10=float(np.mean(shares)) if shares else 0.0,
        quality=[_quality(database, names, encoders, s, qrels) for s in pair] if qrels else [],
    )


def _quality(
    database: Postgres,
    names: TableNames,
    encoders: Encoders,
    vector_set: VectorSet,
    qrels: Qrels,
) -> SetQuality:
    ranked = rankings(database, names, encoders, vector_set, qrels, _DEPTH)
    gain, low, high = mean_interval(
        [ndcg(ids, qrels.relevant[query], _K) for query, ids in ranked.items()]
    )

    def mean_recall(k: int) -> float:
        return fmean(recall(ids, qrels.relevant[query], k) for query, ids in ranked.items())

    return SetQuality(
        number=vector_set.number,
        model=vector_set.model,
        ndcg_at_10=gain,
        ndcg_at_10_low=low,
        ndcg_at_10_high=high,
        recall_at_10=mean_recall(_K),
        recall_at_100=mean_recall(_DEPTH),
    )
