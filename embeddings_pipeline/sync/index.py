"""Keeps the vector index of each set: built once nothing is pending, and its recall measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

from embeddings_pipeline.store import indexes, queries, vector_sets
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet

# an index is measured again when its set has grown or shrunk by this share
_MEASURE_AGAIN = 0.1


@dataclass(frozen=True)
class IndexResult:
    """One set's index. `action` is built, measured, kept or waiting (rows are pending)."""

    vector_set: VectorSet
    action: str
    rows: int
    seconds: float


def sync_index(database: Postgres, on: Statements) -> list[IndexResult]:
    """Build or measure the index of each live and building set where that is due."""
    with database.connection() as connection:
        sets = vector_sets.vector_sets(connection, on, ("live", "building"))
    return [_sync_one(database, on, vector_set) for vector_set in sets]


def _sync_one(database: Postgres, on: Statements, vector_set: VectorSet) -> IndexResult:
    started = time.monotonic()
    index = on.source.entity.index
    with database.connection() as connection:
        coverage = queries.coverage(connection, on, vector_set)
        rows = sum(partition.vectors for partition in coverage)
        wanted = indexes.settings_of(index, vector_set.metric, rows)
        if index.type == "ivfflat" and index.lists is None and vector_set.index_settings:
            # lists that follow the rows would otherwise ask for a new index after each insert
            wanted["lists"] = vector_set.index_settings.get("lists", wanted["lists"])
        built = vector_set.index_settings == wanted
        if not built and any(partition.pending for partition in coverage):
            return IndexResult(vector_set, "waiting", rows, time.monotonic() - started)
        if not built:
            indexes.build(connection, on, vector_set, wanted)
        grown = abs(rows - (vector_set.index_rows or 0)) > _MEASURE_AGAIN * rows
        if built and not grown:
            return IndexResult(vector_set, "kept", rows, time.monotonic() - started)
        recall = indexes.measure(connection, on, vector_set, wanted, index.recall)
        indexes.record(connection, on, vector_set, wanted, rows, recall)
        (fresh,) = (
            s
            for s in vector_sets.vector_sets(connection, on, ("live", "building"))
            if s.number == vector_set.number
        )
    action = "measured" if built else "built"
    return IndexResult(fresh, action, rows, time.monotonic() - started)
