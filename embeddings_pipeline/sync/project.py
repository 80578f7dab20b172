"""Projects entries of the embedding cache into vector sets, a window of whole rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from embeddings_pipeline.encoders.prefetch import prefetch
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import pending, projection
from embeddings_pipeline.store.vectors.pending import Scope
from embeddings_pipeline.store.vectors.projection import Projected

# ids selected by one query, and rows written in one transaction
_SLICE_ROWS, WINDOW_ROWS = 50_000, 4_000
# sessions that write at the same time
_SESSIONS = 2


def project_pending(
    database: Postgres,
    names: TableNames,
    vector_set: VectorSet,
    scope: Scope,
    *,
    hashes: Sequence[bytes] | None = None,
    session: EntityTables | None = None,
    written: Callable[[Projected], None] = lambda projected: None,
) -> Projected:
    """Project the pending rows whose entries are in the cache, or only the rows with one of these
    hashes. `session` selects the rows, where the scope needs the session's temporary tables.
    `written` is called after each window."""

    def ids_of(tables: EntityTables, after: str | None) -> list[str]:
        if hashes is not None:
            return pending.ids_waiting_for(tables, scope, hashes)
        return pending.ids_to_project(tables, vector_set, scope, after=after, limit=_SLICE_ROWS)

    @resumed
    def some_ids(after: str | None) -> list[str]:
        if session:
            return ids_of(session, after)
        with open_tables(database, names) as tables:
            return ids_of(tables, after)

    @resumed
    def project(ids: Sequence[str]) -> Projected:
        with open_tables(database, names) as tables:
            return projection.project(tables, vector_set, ids)

    done = Projected()
    after: str | None = None
    while ids := some_ids(after):
        windows = (ids[start : start + WINDOW_ROWS] for start in range(0, len(ids), WINDOW_ROWS))
        with closing(prefetch(project, windows, threads=_SESSIONS, depth=_SESSIONS)) as results:
            for projected in results:
                written(projected)
                done = done.plus(projected)
        if hashes is not None or len(ids) < _SLICE_ROWS:
            break
        after = ids[-1]
    return done
