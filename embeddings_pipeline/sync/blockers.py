"""Decides whether a vector set may take the place of the live one."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection

from embeddings_pipeline.store import queries
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.queries import PartitionCoverage
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors.vector_set import VectorSet


def blockers(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, live: VectorSet | None
) -> list[str]:
    """Why a set may not take the place of the live one; empty where it may."""
    covered = queries.coverage(EntityTables(connection, on), vector_set)
    missing = sum(partition.missing for partition in covered)
    orphans = queries.orphans(connection, on, vector_set)
    target = on.source.entity.index.recall
    reasons = []
    if missing:
        reasons.append(f"{missing:,} chunks are pending")
    else:
        reasons += _failed_on(connection, on, vector_set, live, covered)
    if orphans:
        reasons.append(f"{orphans:,} vectors have no row")
    if vector_set.recall is None:
        reasons.append("its index is not built")
    elif vector_set.recall < target:
        reasons.append(f"the index has recall@10 {vector_set.recall:.3f}, below {target}")
    return reasons


def _failed_on(
    connection: Connection[Row],
    on: Statements,
    vector_set: VectorSet,
    live: VectorSet | None,
    covered: Sequence[PartitionCoverage],
) -> list[str]:
    """Why a set in which nothing is pending would show too little: its model failed on the rest."""
    if not any(partition.quarantined for partition in covered):
        return []
    entity = on.source.entity
    if not any(partition.vectors for partition in covered):
        rows = sum(partition.rows for partition in covered)
        return [
            f"its model failed on all {rows:,} rows: `embeddings-pipeline explain {entity.name} ID`"
            f" shows the error, `embeddings-pipeline retry {entity.name}` lets a run try again"
        ]
    if live is None:
        return []
    shown, lost = queries.shown_and_lost(connection, on, live, vector_set)
    if lost <= entity.max_delete_share * shown:
        return []
    return [
        f"{lost:,} of the {shown:,} rows that set {live.number} shows have no vector in it, and"
        f" max_delete_share is {entity.max_delete_share:.0%}: `embeddings-pipeline retry"
        f" {entity.name}` lets a run try them again; if it is meant, raise max_delete_share"
    ]
