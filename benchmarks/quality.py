"""How well search finds on SciFact (BEIR): nDCG@10, recall@100 and MRR of each mode and split.

With `--tune` the fusion's constant and weights are tried on the train split, on what each way to
search ranks there; the test split is not looked at.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

from benchmarks.scratch import report, world
from benchmarks.search import engine_of
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.search.evaluation import evaluate
from embeddings_pipeline.search.requests import Mode, SearchRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.sync.qrels import Qrels, ndcg, read_qrels
from tests.support.world import World

_DEPTH = 100
_CONSTANTS = (1, 2, 5, 10, 20, 40, 60)
_TEXT_SHARES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds scifact/")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    folder = options.data / "scifact"
    with world() as scratch:
        load(scratch, folder)
        with Searcher(engine_of(scratch)) as searcher:
            if options.tune:
                tune(searcher, judged(folder, "train"))
            for split in ("train", "test"):
                measured = evaluate(searcher, "item", judged(folder, split))
                report(
                    bench="quality",
                    split=split,
                    **{
                        f"{m.mode}_{'exact' if m.exact else 'index'}": {
                            "ndcg_at_10": round(m.ndcg_at_10, 4),
                            "recall_at_100": round(m.recall_at_100, 4),
                            "mrr": round(m.mrr, 4),
                        }
                        for m in measured
                    },
                    targets={"dense": 0.645, "text": 0.65, "hybrid": 0.70},
                )


def load(scratch: World, folder: Path) -> None:
    scratch.encoders = Encoders(Settings(_env_file=None))
    scratch.table("id text, title text, text text")
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    scratch.insert(*[(d["_id"], d["title"], d["text"]) for d in documents])
    scratch.run(scratch.declare(template="{title} {text}", model=DEFAULT_MODEL))


def judged(folder: Path, split: str) -> Qrels:
    return read_qrels(folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv")


def tune(searcher: Searcher, qrels: Qrels) -> None:
    """Print the nDCG@10 of each constant and weight, the best first."""
    dense = ranked(searcher, qrels, "dense")
    text = ranked(searcher, qrels, "text")
    tried = sorted(
        (
            (
                fmean(
                    ndcg(fused(dense[q], text[q], constant, share), qrels.relevant[q], 10)
                    for q in qrels.queries
                ),
                constant,
                share,
            )
            for constant, share in product(_CONSTANTS, _TEXT_SHARES)
        ),
        reverse=True,
    )
    for gain, constant, share in tried[:10]:
        report(tune="train", ndcg_at_10=gain, rank_constant=constant, text_weight=share)


def ranked(searcher: Searcher, qrels: Qrels, mode: Mode) -> Mapping[str, Sequence[str]]:
    """The ids that each query finds, best first."""
    return {
        key: [
            hit.id
            for hit in searcher.search(
                SearchRequest(entity="item", query=query, mode=mode, top_k=_DEPTH, exact=True)
            ).results
        ]
        for key, query in qrels.queries.items()
    }


def fused(dense: Sequence[str], text: Sequence[str], constant: int, share: float) -> list[str]:
    """Weighted reciprocal rank fusion, as the pipeline does it in SQL."""
    scores: dict[str, float] = {}
    for ids, weight in ((dense, 1 - share), (text, share)):
        for rank, row_id in enumerate(ids, 1):
            scores[row_id] = scores.get(row_id, 0) + weight / (constant + rank)
    return sorted(scores, key=lambda row_id: (-scores[row_id], row_id))


if __name__ == "__main__":
    main()
