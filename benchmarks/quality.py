"""How well search finds: nDCG@10 of each mode on SciFact (BEIR) and on collections made from the
data folder, and what hybrid search gains or loses beside the better of its two ways.

With `--tune` the constants of the fusion are tried on what each way to search finds; the test split
of SciFact is not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

from benchmarks.judged import Collection, collections
from benchmarks.scratch import report, world
from benchmarks.search import engine_of
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.search.evaluation import evaluate
from embeddings_pipeline.search.requests import Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.sync.quality.qrels import Qrels, ndcg
from tests.support.world import World

_DEPTH = 100
_SAMPLES = (20, 50, 100)
_EXPONENTS = (1, 1.5, 2)
_TEXT_WEIGHTS = (0.5, 0.55, 0.6, 0.65, 0.7)

Found = Mapping[str, Sequence[tuple[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds scifact/ and the others")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    # the memory of a model that was freed is not returned to the system
    encoders = Encoders(Settings(_env_file=None))
    lists: dict[str, tuple[Found, Found, Qrels]] = {}
    for collection in collections(options.data):
        with world() as scratch:
            scratch.encoders = encoders
            load(scratch, collection)
            with Searcher(engine_of(scratch)) as searcher:
                for name, qrels in collection.judged.items():
                    if not options.tune:
                        measure(searcher, name, qrels, collection)
                    elif "test" not in name:
                        lists[name] = (
                            found(searcher, qrels, "dense", collection),
                            found(searcher, qrels, "text", collection),
                            qrels,
                        )
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


def found(searcher: Searcher, qrels: Qrels, mode: Mode, collection: Collection) -> Found:
    """The ids and scores that each query finds, best first."""
    return {
        key: [
            (hit.id, hit.score)
            for hit in searcher.search(
                SearchRequest.of(entity="item", query=query, mode=mode, top_k=_DEPTH, exact=True)
            ).results
            if not (collection.queries_are_rows and hit.id == key)
        ]
        for key, query in qrels.queries.items()
    }


def tune(lists: Mapping[str, tuple[Found, Found, Qrels]]) -> None:
    """Print the constants whose greatest loss to the better way is the smallest."""
    tried = []
    for sample, exponent, weight in product(_SAMPLES, _EXPONENTS, _TEXT_WEIGHTS):
        losses = [
            mean_ndcg({q: fused(dense[q], text[q], sample, exponent, weight) for q in dense}, qrels)
            - max(mean_ndcg(ids(dense), qrels), mean_ndcg(ids(text), qrels))
            for dense, text, qrels in lists.values()
        ]
        tried.append((min(losses), fmean(losses), sample, exponent, weight))
    for worst, mean, sample, exponent, weight in sorted(tried, reverse=True)[:10]:
        report(worst=worst, mean=mean, sample=sample, exponent=exponent, text_weight=weight)


def ids(ways: Found) -> Mapping[str, Sequence[str]]:
    return {query: [row_id for row_id, _ in rows] for query, rows in ways.items()}


def mean_ndcg(ranked: Mapping[str, Sequence[str]], qrels: Qrels) -> float:
    return fmean(ndcg(rows, qrels.relevant[query], 10) for query, rows in ranked.items())


def fused(
    dense: Sequence[tuple[str, float]],
    text: Sequence[tuple[str, float]],
    sample: int,
    exponent: float,
    weight: float,
) -> list[str]:
    """The ids of both lists in the order of hybrid search, as the pipeline does it in SQL."""
    scores: dict[str, float] = {}
    missing = [0.0] * max(0, min(len(dense), sample) - len(text))
    for rows, share, zeros in ((dense, 1 - weight, []), (text, weight, missing)):
        first = [score for _, score in rows[:sample]] + zeros
        mean, deviation = (fmean(first), pstdev(first)) if first else (0.0, 0.0)
        for row_id, score in rows:
            above = (score - mean) / max(deviation, 1e-9)
            gained = share * max(above / 6 + 0.5, 0) ** exponent
            scores[row_id] = scores.get(row_id, 0) + gained
    return sorted(scores, key=lambda row_id: (-scores[row_id], row_id))


if __name__ == "__main__":
    main()
