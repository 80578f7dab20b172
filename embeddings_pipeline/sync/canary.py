"""The check of an index: searches of a sample of the rows, exactly and through it."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from embeddings_pipeline.store import locks
from embeddings_pipeline.store import recall as stored
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vectors import sets as vector_sets
from embeddings_pipeline.store.vectors.vector_set import VectorSet
from embeddings_pipeline.sync.verdict import Verdict


def measured(
    connection: Connection[Row], on: Statements, shown: VectorSet | None
) -> VectorSet | None:
    """The set after its index was measured, where that was due; searches go by what was found."""
    if shown is None or not stored.is_due(connection, on, shown):
        return shown
    with locks.index(connection, on, shown.table_name):
        stored.measure(connection, on, shown)
    return vector_sets.read(connection, on, shown.number)


def verdict(shown: VectorSet | None, target: float) -> Verdict:
    """A warning until the index is built or where a filter makes it find too little, an error
    where it finds too little without one."""
    if shown is None or shown.recall is None:
        return Verdict(False, "the index is not built yet", "warn")
    levels = (shown.canary or {}).get("levels", [])
    filtered = min((level["recall_at_10"] for level in levels if level["column"]), default=1.0)
    found = [f"recall@10 is {shown.recall:.3f}"]
    if shown.recall < target:
        found.append(f"below {target}: raise m, ef_construction or lists")
    elif filtered < target:
        found.append(f"but {filtered:.3f} with a filter, below {target}")
    return Verdict(
        passed=len(found) == 1,
        severity="error" if shown.recall < target else "warn",
        description=", ".join(found),
        metadata={
            "recall_at_10": shown.recall,
            "target": target,
            "effort": shown.ef_search,
            "levels": [_shown(level) for level in levels],
        },
    )


def _shown(level: dict[str, Any]) -> dict[str, Any]:
    everything = level["share"] == 1
    by = "no filter" if everything else level["column"] or "a hash of the id"
    return {**level, "share": f"{level['share']:.1%}", "column": by}
