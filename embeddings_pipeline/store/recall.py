"""recall@10 of a vector index against exact search, and the least effort that reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import numpy as np
from psycopg import Connection
from psycopg.types.json import Jsonb

from embeddings_pipeline.store import indexes
from embeddings_pipeline.store.indexes import EFFORT_SETTINGS
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.sampled_filters import Sampled, sampled
from embeddings_pipeline.store.sampled_searches import K, Searched, search
from embeddings_pipeline.store.search_dense import better_compared
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vectors.vector_set import VectorSet

# hnsw.ef_search or ivfflat.probes to try, in order; 1,000 is the most that pgvector takes
_EFFORTS: dict[str, Sequence[int | None]] = {
    "hnsw": (20, 40, 60, 80, 120, 160, 240, 320, 480, 640, 1000),
    "ivfflat": (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 1000),
    "none": (None,),
}
# measured again when this share of the rows changed, and anyhow after a day: vacuum, an upgrade
# or a person may have changed the index
_MEASURE_AGAIN = 0.1
_MEASURE_DAILY = timedelta(days=1)

# equal distances order at random: a hit is whatever is as near as the exact tenth
_TIE = 1e-6


@dataclass(frozen=True)
class Level:
    """Searches with a filter that leaves this share of the rows, on a column or (None) on none.

    `recall_at_10` is the mean over the queries; the milliseconds are the database's own, without
    planning and the way to it, through the index and exactly.
    """

    share: float
    column: str | None
    queries: int
    recall_at_10: float
    p50_ms: float
    p95_ms: float
    exact_p50_ms: float


@dataclass(frozen=True)
class Canary:
    """What was measured with an effort (ef_search, probes): without a filter first."""

    effort: int | None
    levels: Sequence[Level]

    @property
    def recall(self) -> float:
        """recall@10 without a filter."""
        return self.levels[0].recall_at_10

    @property
    def worst(self) -> float:
        """The lowest recall@10 among searches that people can ask for."""
        return min(level.recall_at_10 for level in self.levels if level.share == 1 or level.column)


def is_due(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> bool:
    """Whether what was measured of a set tells little of it by now, or nothing was measured."""
    if vector_set.canary is None:
        return vector_set.index_settings is not None
    measured_at = datetime.fromisoformat(vector_set.canary["measured_at"])
    wear = indexes.wear(connection, on, vector_set, measured_at)
    changed = wear.share(vector_set.canary["rows"])
    return changed > _MEASURE_AGAIN or wear.at - measured_at > _MEASURE_DAILY


def measure(connection: Connection[Row], on: Statements, vector_set: VectorSet) -> Canary:
    """Measure the index of a set with stored vectors as queries, and store what it gave.

    The effort is the least whose recall reaches the declared target, with and without filters,
    or else the greatest.
    """
    target = on.source.entity.index.recall
    kind = (vector_set.index_settings or {"type": "none"})["type"]
    filters = sampled(connection, on, vector_set)
    exact = search(connection, on, vector_set, filters, {"enable_indexscan": "off"})
    for effort in _EFFORTS[kind]:
        found = exact
        if effort is not None:
            found = search(connection, on, vector_set, filters, _through_index(kind, effort))
        rows = vector_set.index_rows or 0
        levels = [_level(rows, *of) for of in zip(filters, found, exact, strict=True)]
        canary = Canary(effort, levels)
        if canary.worst >= target:
            break
    _record(connection, on, vector_set, canary)
    return canary


def _record(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, canary: Canary
) -> None:
    connection.execute(
        on.fill(
            """
            update {vector_sets} set recall = %s, ef_search = %s, canary = jsonb_build_object(
                'measured_at', clock_timestamp(), 'rows', (select count(*) from {vectors}),
                'levels', %s::jsonb
            ) where entity = {entity} and number = %s
            """,
            vectors=on.table(vector_set.table_name),
        ),
        (
            canary.recall,
            canary.effort,
            Jsonb([asdict(level) for level in canary.levels]),
            vector_set.number,
        ),
    )


def _through_index(kind: str, effort: int) -> dict[str, str]:
    # as searches have it: see search_session and search_dense
    return {
        "enable_seqscan": "off",
        EFFORT_SETTINGS[kind]: str(effort),
        f"{kind}.iterative_scan": "relaxed_order",
    }


def _level(
    rows: int, chosen: Sampled, found: Sequence[Searched], exact: Sequence[Searched]
) -> Level:
    answers = exact
    few = better_compared(round(chosen.share * rows), rows, K)
    if chosen.share == 1 or not few:
        # as searches do: one that finds too few goes on exactly
        answers = [
            near if len(near.distances) == len(far.distances) else far.after(near.milliseconds)
            for near, far in zip(found, exact, strict=True)
        ]
    hits = [
        (near.distances <= far.distances[-1] + _TIE).mean()
        for near, far in zip(answers, exact, strict=True)
        if len(far.distances)
    ]
    return Level(
        share=chosen.share,
        column=chosen.column,
        queries=len(exact),
        recall_at_10=float(np.mean(hits)) if hits else 1.0,
        **_quantiles(answers),
        exact_p50_ms=_quantiles(exact)["p50_ms"],
    )


def _quantiles(searched: Sequence[Searched]) -> dict[str, float]:
    milliseconds = [one.milliseconds for one in searched]
    p50, p95 = np.quantile(milliseconds or [0.0], (0.5, 0.95))
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}
