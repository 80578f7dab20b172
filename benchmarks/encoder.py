"""The local encoder on a CPU beside SentenceTransformer.encode with its defaults, and fastembed.

Speed on short and long descriptions mixed, other ones each time, as in a table; quality on SciFact
and STS-B; and how long a process takes from its start to a hundred texts. The same weights
everywhere.
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
from embeddings_pipeline.encoders.local.devices import dtype_for
from embeddings_pipeline.encoders.local.download import find_or_download
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.sync.quality.qrels import ndcg, read_qrels

_REPEATS = 5
_OURS = f"""
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
Encoders(Settings(embedding_device="cpu")).get({DEFAULT_MODEL!r}).encode_documents(texts)
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
    settings = Settings(embedding_device="cpu")
    encoder = Encoders(settings).get(DEFAULT_MODEL)
    folder = find_or_download(DEFAULT_MODEL, settings)
    samples = [mixed(options.data, options.texts, start=start) for start in range(_REPEATS)]

    from sentence_transformers import SentenceTransformer

    default = SentenceTransformer(str(folder), device="cpu")
    tokens: list[int] = []
    ways: dict[str, Callable[[list[str]], object]] = {
        "ours": lambda texts: tokens.append(encoder.encode_documents(texts).usage.tokens),
        "default": default.encode,
    }
    fast = FastEmbed(options.fastembed, folder) if options.fastembed else None
    if fast:
        ways["fastembed"] = fast.encode
    peaks: list[float] = []
    ways["matrix product"] = lambda _: peaks.append(matrix_peak())
    seconds = race(ways, samples)
    rates = [count / taken for count, taken in zip(tokens, seconds["ours"], strict=True)]
    flops = flops_a_token(folder)
    few = samples[0][:100]
    report(
        bench="encoder",
        device=encoder.device,
        precision=str(dtype_for(settings.embedding_precision, encoder.device)),
        texts=options.texts,
        tokens_per_second=statistics.median(rates),
        times_default=median_ratio(seconds["default"], seconds["ours"]),
        target=4,
        **(
            {"times_fastembed": median_ratio(seconds["fastembed"], seconds["ours"])} if fast else {}
        ),
        matrix_peak_gflops=statistics.median(peaks) / 1e9,
        share_of_peak=flops * median_ratio(rates, peaks),
        share_target=0.75,
        start_to_100_texts_seconds=start(_OURS, few),
        default_start_seconds=start(_DEFAULT.format(folder=str(folder)), few),
        **({"fastembed_start_seconds": fast.start(few)} if fast else {}),
        **({} if options.no_quality else quality(options.data, encoder)),
        peak_memory_mib=peak_memory_mib(),
    )


def mixed(data: Path, count: int, *, start: int = 0) -> list[str]:
    """Short and long descriptions in turn, of packages spread over the whole index.

    Each `start`, the number of the first package, gives other texts.
    """
    rows = packages(data)
    step = max(len(rows) // count, 1)
    columns = ("description_short", "description_long")
    spread = rows[start::step]
    return [row[columns[n % 2]] or row[columns[0]] for n, row in enumerate(spread)][:count]


def race(
    ways: dict[str, Callable[[list[str]], object]], samples: list[list[str]]
) -> dict[str, list[float]]:
    """Seconds of each way for each sample, taken in turn so that a busy machine hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for texts in samples:
        for name, work in ways.items():
            taken[name].append(timed(partial(work, texts))[0])
    return taken


def median_ratio(left: list[float], right: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(left, right, strict=True))


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
