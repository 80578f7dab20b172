"""The status of each entity, read from the stored tables without the staging models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store import run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres, columns_of
from embeddings_pipeline.store.declarations import as_stored
from embeddings_pipeline.store.retry import read_again
from embeddings_pipeline.store.run_ledger import Cost
from embeddings_pipeline.store.tables import (
    EntityTables,
    TableNames,
    drop_noticed,
    open_tables,
)
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import coverage as stored_coverage
from embeddings_pipeline.store.vectors.coverage import PartitionCoverage
from embeddings_pipeline.sync import publish


@dataclass(frozen=True)
class LiveSet:
    """The set that the published view shows."""

    number: int
    model: str
    dimension: int


@dataclass(frozen=True)
class IndexStatus:
    """The index of a set; `type` is none where it has no index."""

    type: str
    recall_at_10: float | None


@dataclass(frozen=True)
class EntityStatus:
    """The status of an entity, for its live set, or for the first set while it is built.

    `coverage` is the percentage of rows with a text that have vectors, None without such rows.
    `waiting` says why a set that was built is not published yet. `problem` is a known error that
    prevents runs of the entity.
    """

    entity: str
    rows: int
    chunks: int
    vectors: int
    coverage: float | None
    pending: int
    oldest_pending_seconds: int | None
    live_set: LiveSet | None
    index: IndexStatus
    cost: Cost = field(default_factory=Cost)
    waiting: Sequence[str] = ()
    problem: str | None = None

    def row(self) -> dict[str, Any]:
        """The status as one row of a table."""
        return {
            "entity": self.entity,
            "rows": self.rows,
            "chunks": self.chunks,
            "vectors": self.vectors,
            "coverage": self.coverage,
            "pending": self.pending,
            "oldest_pending_seconds": self.oldest_pending_seconds,
            "live_set": self.live_set.number if self.live_set else None,
            "model": self.live_set.model if self.live_set else None,
            "index": self.index.type,
            "recall_at_10": self.index.recall_at_10,
            "last_run_usd": self.cost.last_run_usd,
            "total_usd": self.cost.total_usd,
            "waiting": "; ".join(self.waiting) or None,
            "problem": self.problem,
        }


@read_again
def status(database: Postgres, schema: str, entity: Entity) -> EntityStatus:
    """The status of an entity; all zeros for an entity that was never run."""
    with drop_noticed(entity.name), database.connection() as connection:
        columns = columns_of(connection, schema, f"{entity.name}_texts")
        if not columns:
            return nothing_of(entity.name)
        return _read(EntityTables(connection, as_stored(schema, entity, columns)))


def nothing_of(entity: str) -> EntityStatus:
    """The status of an entity that was never run."""
    return EntityStatus(entity, 0, 0, 0, None, 0, None, None, IndexStatus("none", None))


def counts_of_run(database: Postgres, schema: str, entity: Entity, run_id: str) -> dict[str, Any]:
    """The counts of a run in the ledger, by name; empty where it recorded nothing."""
    with database.connection() as connection:
        if not columns_of(connection, schema, "run_ledger"):
            return {}
        tables = EntityTables(connection, as_stored(schema, entity))
        return run_ledger.read(tables, run_id) or {}


@read_again
def coverage(database: Postgres, names: TableNames) -> list[PartitionCoverage]:
    """Coverage by partition of the set that searches use."""
    with open_tables(database, names) as tables:
        sets = vector_sets.read(tables, ("live", "building"))
        return stored_coverage.coverage(tables, vector_sets.served(sets))


def _read(tables: EntityTables) -> EntityStatus:
    sets = vector_sets.read(tables, ("live", "building"))
    shown = vector_sets.served(sets)
    partitions = stored_coverage.coverage(tables, shown)
    rows = sum(p.rows for p in partitions)
    ages = [p.oldest_pending_seconds for p in partitions if p.oldest_pending_seconds is not None]
    return EntityStatus(
        entity=tables.entity,
        rows=rows,
        chunks=sum(p.chunks for p in partitions),
        vectors=sum(p.vectors for p in partitions),
        # rounded down: 100 only where nothing is missing
        coverage=10_000 * sum(p.covered for p in partitions) // rows / 100 if rows else None,
        pending=sum(p.pending for p in partitions),
        oldest_pending_seconds=max(ages, default=None),
        live_set=_live(shown),
        index=_index(shown),
        cost=run_ledger.cost(tables),
        waiting=publish.waiting(tables),
    )


def _live(shown: VectorSet | None) -> LiveSet | None:
    if shown is None or shown.state != "live":
        return None
    return LiveSet(shown.number, shown.model, shown.dimension)


def _index(shown: VectorSet | None) -> IndexStatus:
    if shown is None or shown.index_settings is None:
        return IndexStatus("none", None)
    return IndexStatus(shown.index_settings["type"], shown.recall)
