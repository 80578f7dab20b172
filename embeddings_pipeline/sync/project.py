"""Projects what the embedding cache has into vector sets, a window of whole rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vectors import pending, projection
from embeddings_pipeline.store.vectors.pending import Scope
from embeddings_pipeline.store.vectors.projection import Projected
from embeddings_pipeline.store.vectors.vector_set import VectorSet

# ids that are asked for at once, and rows that are written in one transaction
_SLICE_ROWS, WINDOW_ROWS = 50_000, 2_000


def project_pending(
    database: Postgres,
    on: Statements,
    vector_set: VectorSet,
    scope: Scope,
    *,
    hashes: Sequence[bytes] | None = None,
    written: Callable[[Projected], None] = lambda projected: None,
) -> Projected:
    """Project the rows that have something pending, or that wait for one of these hashes; what the
    cache does not have yet is left. `written` is called after each window."""
    done = Projected()
    after: str | None = None
    while True:
        ids = _pending_ids(database, on, vector_set, scope, after, hashes)
        for start in range(0, len(ids), WINDOW_ROWS):
            window = _project(database, on, vector_set, ids[start : start + WINDOW_ROWS])
            written(window)
            done = done.plus(window)
        if len(ids) < _SLICE_ROWS:
            return done
        after = ids[-1]


@resumed
def _pending_ids(
    database: Postgres,
    on: Statements,
    vector_set: VectorSet,
    scope: Scope,
    after: str | None,
    hashes: Sequence[bytes] | None,
) -> list[str]:
    with database.connection() as connection:
        return pending.pending_ids(
            EntityTables(connection, on),
            vector_set,
            scope,
            after=after,
            limit=_SLICE_ROWS,
            hashes=hashes,
            cached=hashes is None,
        )


@resumed
def _project(
    database: Postgres, on: Statements, vector_set: VectorSet, ids: Sequence[str]
) -> Projected:
    with database.connection() as connection:
        return projection.project(EntityTables(connection, on), vector_set, ids)
