"""Queries with relevance judgements (qrels), from files in the layout of BEIR or from a CSV file of
golden queries, and their measures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embeddings_pipeline.errors import ConfigurationError

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Qrels:
    """Queries by id, and for each query the grade (above 0) of its relevant rows."""

    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]


def read_qrels(queries: Path, qrels: Path) -> Qrels:
    """Read `queries.jsonl` and a `qrels/*.tsv`; keeps only judged queries.

    Raises ConfigurationError for a missing file, or one in another layout.
    """
    import pandas as pd

    try:
        texts = {
            str(record["_id"]): str(record["text"])
            # `splitlines` would also split at other characters that a text may contain
            for record in map(json.loads, filter(str.strip, queries.read_text("utf-8").split("\n")))
        }
        # an id may be NA, or contain a quotation mark
        table = pd.read_csv(
            qrels,
            sep="\t",
            dtype={"query-id": str, "corpus-id": str},
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
        )
        judged = table[table["score"] > 0]
        relevant: dict[str, dict[str, int]] = {}
        for query, row_id, score in zip(
            judged["query-id"], judged["corpus-id"], judged["score"], strict=True
        ):
            relevant.setdefault(query, {})[row_id] = int(score)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"{queries} and {qrels} are not in BEIR's layout ({error}): queries.jsonl has lines"
            ' like {"_id": "1", "text": "…"}, the qrels are tab-separated query-id, corpus-id and'
            " score, with that header"
        ) from None
    return Qrels({q: texts[q] for q in relevant if q in texts}, relevant)


def read_golden(file: Path) -> Qrels:
    """Read a CSV file with the columns `query` and `id`, a row for each id that answers a query.

    Raises ConfigurationError for a missing file, or one without these columns or rows.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            columns = table.fieldnames or []
            if missing := {"query", "id"} - {*columns}:
                raise ConfigurationError(
                    f"{file} has no column {' and '.join(sorted(missing))} (columns:"
                    f" {', '.join(columns)})"
                )
            relevant: dict[str, dict[str, int]] = {}
            for row in table:
                query, row_id = (row["query"] or "").strip(), (row["id"] or "").strip()
                if not query or not row_id:
                    raise ConfigurationError(
                        f"{file}, line {table.line_num}: query and id must not be empty"
                    )
                relevant.setdefault(query, {})[row_id] = 1
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigurationError(f"{file} cannot be read as CSV: {error}") from None
    if not relevant:
        raise ConfigurationError(f"{file} has no rows: write a query and the id that answers it")
    return Qrels({query: query for query in relevant}, relevant)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the bounds of its 95 % interval by a percentile bootstrap over the values.

    Source: Sakai, Evaluating evaluation metrics based on the bootstrap (SIGIR 2006).
    """
    given = np.asarray(values)
    # seeded: a check that is repeated gives the same interval
    random = np.random.default_rng(0)
    # one resample at a time: all of them would need gigabytes for some ten thousand queries
    means = [random.choice(given, len(given)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(given.mean()), float(low), float(high)


def ndcg(ranked: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain at k, with linear gain as trec_eval has it.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (2002).
    """
    gain = _discounted([relevant.get(row_id, 0) for row_id in ranked[:k]])
    ideal = _discounted(sorted(relevant.values(), reverse=True)[:k])
    return gain / ideal if ideal else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """The share of the relevant rows that are among the first k."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], relevant: Mapping[str, int]) -> float:
    """1 / the rank of the first relevant row; 0 where none was found."""
    return next((1 / rank for rank, row_id in enumerate(ranked, 1) if row_id in relevant), 0.0)


def _discounted(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))
