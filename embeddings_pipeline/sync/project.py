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

    @resumed
    def go_on() -> None:
        nonlocal done
        after: str | None = None
        with database.connection() as connection:
            tables = EntityTables(connection, on)
            while True:
                ids = pending.pending_ids(
                    *(tables, vector_set, scope),
                    after=after,
                    limit=_SLICE_ROWS,
                    hashes=hashes,
                    cached=hashes is None,
                )
                for start in range(0, len(ids), WINDOW_ROWS):
                    window = projection.project(
                        tables, vector_set, ids[start : start + WINDOW_ROWS]
                    )
                    written(window)
                    done = done.plus(window)
                if len(ids) < _SLICE_ROWS:
                    return
                after = ids[-1]

    go_on()
    return done
