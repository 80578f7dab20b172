"""Queries with relevance judgements (qrels) in the layout of BEIR, and their measures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embeddings_pipeline.errors import ConfigurationError


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
