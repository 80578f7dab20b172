"""Keeps the vector index of each set: built once nothing is pending, and its recall measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from embeddings_pipeline.entities.entity import Index
from embeddings_pipeline.store import (
    filter_indexes,
    indexes,
    locks,
    queries,
    terms,
    vector_sets,
    vectors,
)
from embeddings_pipeline.store.postgres import Postgres, Row, resumed
from embeddings_pipeline.store.recall import Recall, measure, record
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


@resumed
def sync_index(database: Postgres, on: Statements) -> list[IndexResult]:
    """Build or measure the index of each live and building set where that is due, and count the
    words of the texts, by which full-text search ranks."""
    with database.connection() as connection:
        terms.refresh_counts(connection, on)
        sets = vector_sets.vector_sets(connection, on, ("live", "building"))
    return [_sync_one(database, on, vector_set) for vector_set in sets]


def _sync_one(database: Postgres, on: Statements, vector_set: VectorSet) -> IndexResult:
    started = time.monotonic()
    index = on.source.entity.index
    with (
        database.connection() as connection,
        locks.index(connection, on, vector_set.table_name),
    ):
        vector_set = vector_sets.read(connection, on, vector_set.number)
        rows, _ = vectors.count(connection, on, vector_set)
        declared = indexes.settings_of(index, vector_set.metric, rows)
        built = _is_built(vector_set, index, declared)
        grown = abs(rows - (vector_set.index_rows or 0)) > _MEASURE_AGAIN * rows
        if built and not grown:
            indexes.remove_leftovers(connection, on, vector_set)
            filter_indexes.ensure(connection, on, vector_set)
            return IndexResult(vector_set, "kept", rows, time.monotonic() - started)
        if any(p.pending for p in queries.coverage(connection, on, vector_set)):
            return IndexResult(vector_set, "waiting", rows, time.monotonic() - started)
        filter_indexes.ensure(connection, on, vector_set)
        if built and vector_set.index_settings:
            settings = {k: v for k, v in vector_set.index_settings.items() if k != "declared"}
            recall = measure(connection, on, vector_set, settings, index.recall)
        else:
            settings, recall = _build(connection, on, vector_set, declared)
        stored = {**settings, "declared": declared}
        record(connection, on, vector_set, stored, rows, recall)
        fresh = vector_sets.read(connection, on, vector_set.number)
    action = "measured" if built else "built"
    return IndexResult(fresh, action, rows, time.monotonic() - started)


def _is_built(vector_set: VectorSet, index: Index, declared: dict[str, Any]) -> bool:
    former = (vector_set.index_settings or {}).get("declared", {})
    if index.type == "ivfflat" and index.lists is None:
        # lists that follow the rows would ask for a new index after each insert
        return {**former, "lists": 0} == {**declared, "lists": 0}
    return bool(former == declared)


def _build(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, declared: dict[str, Any]
) -> tuple[dict[str, Any], Recall]:
    """Build as declared, then with more links as long as the recall is below its target."""
    target = on.source.entity.index.recall
    settings: dict[str, Any] | None = declared
    while settings is not None:
        indexes.build(connection, on, vector_set, settings)
        last, recall = settings, measure(connection, on, vector_set, settings, target)
        settings = None if recall.recall >= target else indexes.stronger(settings)
    return last, recall
