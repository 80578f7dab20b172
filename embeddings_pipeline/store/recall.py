"""recall@10 of a vector index against exact search, and the effort that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from embeddings_pipeline.store.indexes import OPERATORS
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet

K = 10

_SAMPLE = 50

# hnsw.ef_search or ivfflat.probes to try, in order; 1,000 is the most that pgvector takes
_EFFORTS = {"hnsw": (40, 80, 160, 320, 640, 1000), "ivfflat": (1, 3, 10, 30, 100, 300, 1000)}

_EFFORT_SETTING: dict[str, LiteralString] = {
    "hnsw": "hnsw.ef_search",
    "ivfflat": "ivfflat.probes",
}

# equal distances order at random: a hit is whatever is as near as the exact tenth
_TIE = 1e-6


@dataclass(frozen=True)
class Recall:
    """recall@10 against exact search, and the effort (ef_search, probes) that it takes."""

    recall: float
    effort: int | None


def measure(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    settings: dict[str, Any],
    target: float,
) -> Recall:
    """The least effort whose recall reaches the target, or the recall at the greatest."""
    if settings["type"] == "none":
        return Recall(1.0, None)
    exact = _neighbours(connection, on, vector_set, {"enable_indexscan": "off"})
    recall = Recall(0.0, None)
    for effort in _EFFORTS[settings["type"]]:
        found = _neighbours(
            connection,
            on,
            vector_set,
            {"enable_seqscan": "off", _EFFORT_SETTING[settings["type"]]: str(effort)},
        )
        hits = [
            (near <= far[-1] + _TIE).sum() / len(far)
            for near, far in zip(found, exact, strict=True)
            if len(far)
        ]
        recall = Recall(float(np.mean(hits)) if hits else 1.0, effort)
        if recall.recall >= target:
            break
    return recall


def record(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    settings: dict[str, Any],
    rows: int,
    recall: Recall,
) -> None:
    """Store beside the set what its index is and how well it finds."""
    connection.execute(
        on.fill(
            "update {vector_sets} set index_settings = %s, index_rows = %s, recall = %s,"
            " ef_search = %s where entity = {entity} and number = %s"
        ),
        (Jsonb(settings), rows, recall.recall, recall.effort, vector_set.number),
    )


def _neighbours(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    planner: dict[str, str],
) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Distances of the nearest stored vectors to a fixed sample of them, each ascending."""
    names: dict[str, sql.Composable] = {
        "vectors": on.table(vector_set.table_name),
        "operator": sql.SQL(OPERATORS[vector_set.metric]),
    }
    with connection.transaction():
        for setting, value in planner.items():
            connection.execute("select set_config(%s, %s, true)", (setting, value))
        rows = connection.execute(
            on.fill(
                """
                with queries as materialized (
                    select embedding from {vectors} order by text_hash limit {sample}
                )
                select array(
                    select v.embedding {operator} q.embedding from {vectors} v
                    order by v.embedding {operator} q.embedding limit {k}
                ) from queries q
                """,
                sample=sql.Literal(_SAMPLE),
                k=sql.Literal(K),
                **names,
            )
        ).fetchall()
    return [np.array(distances, dtype=np.float64) for (distances,) in rows]
