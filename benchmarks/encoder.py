"""The local encoder beside SentenceTransformer.encode with its defaults, and beside fastembed.

Speed on short and long descriptions mixed, quality on SciFact and STS-B, and how long a process
takes from its start to a hundred texts. The same weights everywhere.
"""

from __future__ import annotations

import csv
import gzip
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.fastembed import FastEmbed
from benchmarks.scratch import arguments, packages, peak_memory_mib, report, timed
from embeddings_pipeline.encoders.encoder import Encoder
from embeddings_pipeline.encoders.local.download import find_or_download
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.sync.quality.qrels import ndcg, read_qrels

_REPEATS = 3
_OURS = f"""
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
Encoders(Settings()).get({DEFAULT_MODEL!r}).encode_documents(texts)
"""
_DEFAULT = """
from sentence_transformers import SentenceTransformer
SentenceTransformer({folder!r}, device="cpu").encode(texts)
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--no-quality", action="store_true", help="speed alone")
    parser.add_argument("--fastembed", type=Path, help="python of an environment that has it")
    options = parser.parse_args()
    settings = Settings()
    encoder = Encoders(settings).get(DEFAULT_MODEL)
    folder = find_or_download(DEFAULT_MODEL, settings)
    texts = mixed(options.data, options.texts)

    from sentence_transformers import SentenceTransformer

    default = SentenceTransformer(str(folder), device="cpu")
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: encoder.encode_documents(texts),
        "default": lambda: default.encode(texts),
    }
    fast = FastEmbed(options.fastembed, folder) if options.fastembed else None
    if fast:
        ways["fastembed"] = lambda: fast.encode(texts)
    peaks: list[float] = []
    ways["matrix product"] = lambda: peaks.append(matrix_peak())
    seconds = race(ways)
    tokens = encoder.encode_documents(texts).usage.tokens
    peak = statistics.median(peaks)
    report(
        bench="encoder",
        device=encoder.device,
        precision=settings.embedding_precision,
        texts=len(texts),
        tokens=tokens,
        tokens_per_second=tokens / seconds["ours"],
        times_default=seconds["default"] / seconds["ours"],
        target=4,
        **({"times_fastembed": seconds["fastembed"] / seconds["ours"]} if fast else {}),
        matrix_peak_gflops=peak / 1e9,
        share_of_peak=tokens / seconds["ours"] * flops_a_token(folder) / peak,
        share_target=0.75,
        start_to_100_texts_seconds=start(_OURS, texts[:100]),
        default_start_seconds=start(_DEFAULT.format(folder=str(folder)), texts[:100]),
        **({"fastembed_start_seconds": fast.start(texts[:100])} if fast else {}),
        **({} if options.no_quality else quality(options.data, encoder)),
        peak_memory_mib=peak_memory_mib(),
    )


def mixed(data: Path, count: int) -> list[str]:
    """Short and long descriptions in turn, spread over the whole index."""
    rows = packages(data)
    step = max(len(rows) // count, 1)
    columns = ("description_short", "description_long")
    return [row[columns[n % 2]] or row[columns[0]] for n, row in enumerate(rows[::step])][:count]


def race(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, taken in turn so that a busy machine hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_REPEATS):
        for name, work in ways.items():
            taken[name].append(timed(work)[0])
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def start(code: str, texts: Sequence[str]) -> float:
    """Seconds from the start of a process to the vectors of these texts."""
    program = f"import json, sys\ntexts = json.load(sys.stdin)\n{code}"
    return timed(
        lambda: subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(texts),
            text=True,
            check=True,
            capture_output=True,
        )
    )[0]


def matrix_peak() -> float:
    """Floating point operations a second of the best bfloat16 product of two square matrices."""
    import torch

    best = 0.0
    for size in (1024, 2048, 4096):
        left = torch.randn(size, size, dtype=torch.bfloat16)
        seconds = min(timed(partial(torch.mm, left, left))[0] for _ in range(5))
        best = max(best, 2 * size**3 / seconds)
    return best


def flops_a_token(folder: Path) -> float:
    """Two operations for each weight of the linear layers; attention's own products left out."""
    config = json.loads((folder / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    return float(2 * config["num_hidden_layers"] * (4 * width**2 + 2 * width * inner))


def quality(data: Path, encoder: Encoder) -> dict[str, float]:
    """nDCG@10 on SciFact's test queries by exact search, and Spearman's rho on STS-B, times 100."""
    return {
        "scifact_ndcg_at_10": 100 * scifact(data / "scifact", encoder),
        "scifact_published": 64.51,
        "stsb_spearman": 100 * stsb(data / "stsb" / "stsb_test_clean.csv", encoder),
        "stsb_published": 82.03,
    }


def scifact(folder: Path, encoder: Encoder) -> float:
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        corpus = [json.loads(line) for line in file]
    documents = encoder.encode_documents([f"{d['title']} {d['text']}" for d in corpus]).vectors
    judged = read_qrels(folder / "queries.jsonl", folder / "qrels" / "test.tsv")
    queries = encoder.encode_query([*judged.queries.values()]).vectors
    gains = []
    for key, scores in zip(judged.queries, queries @ documents.T, strict=True):
        best = np.argsort(-scores)[:10]
        gains.append(ndcg([corpus[n]["_id"] for n in best], judged.relevant[key], 10))
    return statistics.fmean(gains)


def stsb(path: Path, encoder: Encoder) -> float:
    with path.open(encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    sides = [encoder.encode_documents([p[f"sentence{n}"] for p in pairs]).vectors for n in (1, 2)]
    return spearman((sides[0] * sides[1]).sum(axis=1), np.array([float(p["score"]) for p in pairs]))


def spearman(left: Vectors, right: Vectors) -> float:
    """The correlation of the ranks, ties sharing the mean of theirs."""
    import pandas as pd

    return float(pd.Series(left).corr(pd.Series(right), method="spearman"))


if __name__ == "__main__":
    main()
