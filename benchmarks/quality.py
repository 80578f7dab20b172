"""How well search finds: nDCG@10 of each mode on SciFact (BEIR) and on collections made from the
data folder, and what hybrid search gains or loses beside the better of its two ways.

With `--tune` the constants of the fusion are tried on what each way to search finds; the test split
of SciFact is not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from math import hypot
from pathlib import Path
from statistics import fmean, pstdev
from typing import NamedTuple

from benchmarks.judged import Collection, collections
from benchmarks.scratch import report, world
from benchmarks.search import engine_of
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.search.evaluation import evaluate
from embeddings_pipeline.search.requests import Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.store.search.lexical import idf
from embeddings_pipeline.sync.quality.qrels import Qrels, ndcg
from tests.support.world import SCHEMA, World

_DEPTH = 100
_SAMPLE = 50
_EXPONENTS = (2.5, 3, 3.5)
_TEXT_WEIGHTS = (0.45, 0.5, 0.55)
_DENSE_DEVIATIONS = (0.12, 0.15, 0.18)
_TEXT_DEVIATIONS = (0.04, 0.06, 0.08)


class Constants(NamedTuple):
    """Those of `store.search.hybrid`."""

    exponent: float
    text_weight: float
    dense_deviation: float
    text_deviation: float


class Found(NamedTuple):
    """The ids and scores that a query finds in each way, best first, and the greatest score that
    its words could give."""

    dense: Sequence[tuple[str, float]]
    text: Sequence[tuple[str, float]]
    possible: float


Lists = Mapping[str, Found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds scifact/ and the others")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    # the memory of a model that was freed is not returned to the system
    encoders = Encoders(Settings(_env_file=None))
    lists: dict[str, tuple[Lists, Qrels]] = {}
    for collection in collections(options.data):
        with world() as scratch:
            scratch.encoders = encoders
            load(scratch, collection)
            with Searcher(engine_of(scratch)) as searcher:
                for name, qrels in collection.judged.items():
                    if not options.tune:
                        measure(searcher, name, qrels, collection)
                    elif "test" not in name:
                        lists[name] = (found(scratch, searcher, qrels, collection), qrels)
    encoders.cleanup()
    if options.tune:
        tune(lists)


def load(scratch: World, collection: Collection) -> None:
    scratch.table(", ".join(f"{column} text" for column in collection.columns))
    scratch.insert(*collection.rows)
    keys = {"template": None if "include" in collection.keys else "{body}", **collection.keys}
    scratch.run(scratch.declare(model=DEFAULT_MODEL, **keys))


def measure(searcher: Searcher, name: str, qrels: Qrels, collection: Collection) -> None:
    measured = {
        f"{m.mode}_{'exact' if m.exact else 'index'}": m.ndcg_at_10
        for m in evaluate(searcher, "item", qrels, queries_are_rows=collection.queries_are_rows)
    }
    better = max(measured["dense_exact"], measured["text_exact"])
    report(
        bench="quality",
        queries=name,
        ndcg_at_10={way: round(gain, 4) for way, gain in measured.items()},
        hybrid_to_the_better=measured["hybrid_exact"] - better,
    )


def found(scratch: World, searcher: Searcher, qrels: Qrels, collection: Collection) -> Lists:
    """What each query finds in either way."""
    ((texts,),) = scratch.sql(f"select count(*) from {SCHEMA}.item_texts")

    def ranked(key: str, query: str, mode: Mode) -> tuple[list[tuple[str, float]], float]:
        request = SearchRequest.of(entity="item", query=query, mode=mode, top_k=_DEPTH, exact=True)
        answer = searcher.search(request)
        rows = [
            (hit.id, hit.score)
            for hit in answer.results
            if not (collection.queries_are_rows and hit.id == key)
        ]
        return rows, sum(idf(texts, count) for count in (answer.words or {}).values())

    lists = {}
    for key, query in qrels.queries.items():
        dense, _ = ranked(key, query, "dense")
        lists[key] = Found(dense, *ranked(key, query, "text"))
    return lists


def tune(collections: Mapping[str, tuple[Lists, Qrels]]) -> None:
    """Print the constants whose greatest loss to the better way is the smallest."""
    tried = []
    space = product(_EXPONENTS, _TEXT_WEIGHTS, _DENSE_DEVIATIONS, _TEXT_DEVIATIONS)
    for constants in map(Constants._make, space):
        losses = [
            mean_ndcg({q: fused(rows, constants) for q, rows in lists.items()}, qrels)
            - max(
                mean_ndcg({q: ids(rows.dense) for q, rows in lists.items()}, qrels),
                mean_ndcg({q: ids(rows.text) for q, rows in lists.items()}, qrels),
            )
            for lists, qrels in collections.values()
        ]
        tried.append((min(losses), fmean(losses), constants))
    for worst, mean, constants in sorted(tried, reverse=True)[:10]:
        report(worst=worst, mean=mean, **constants._asdict())


def ids(rows: Sequence[tuple[str, float]]) -> Sequence[str]:
    return [row_id for row_id, _ in rows]


def mean_ndcg(ranked: Mapping[str, Sequence[str]], qrels: Qrels) -> float:
    return fmean(ndcg(rows, qrels.relevant[query], 10) for query, rows in ranked.items())


def fused(found: Found, constants: Constants) -> list[str]:
    """The ids of both lists in the order of hybrid search, as the pipeline does it in SQL."""
    missing = [0.0] * max(0, min(len(found.dense), _SAMPLE) - len(found.text))
    by_vector = [score for _, score in found.dense[:_SAMPLE]]
    by_words = [score for _, score in found.text[:_SAMPLE]] + missing
    mean = fmean(by_vector) if by_vector else 0.0
    deviation = max(constants.dense_deviation * (1 - mean), 1e-6)
    text_mean, own = (fmean(by_words), pstdev(by_words)) if by_words else (0.0, 0.0)
    text_deviation = hypot(own, constants.text_deviation * found.possible) or 1.0
    weight = constants.text_weight
    scores: dict[str, float] = {}
    for rows, share, middle, unit in (
        (found.dense, 1 - weight, mean, deviation),
        (found.text, weight, text_mean, text_deviation),
    ):
        for row_id, score in rows:
            above = (score - middle) / unit
            gained = share * max(above / 6 + 0.5, 0) ** constants.exponent
            scores[row_id] = scores.get(row_id, 0) + gained
    return sorted(scores, key=lambda row_id: (-scores[row_id], row_id))


if __name__ == "__main__":
    main()
