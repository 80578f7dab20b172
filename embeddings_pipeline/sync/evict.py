"""Lets caches forget the texts that were replaced, deleted or erased."""

from __future__ import annotations

from collections.abc import Callable, Collection

from embeddings_pipeline.store import evictions
from embeddings_pipeline.store.lost_connections import resumed
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.statements import Statements

# forgets the texts of these hashes; False where it could not
Evict = Callable[[Collection[bytes]], bool]

_AT_ONCE = 10_000


@resumed
def evict_noted(database: Postgres, on: Statements, evict: Evict) -> int:
    """Evict what is noted; returns how many hashes a later run has to try again."""
    with database.connection() as connection:
        while gone := evictions.noted(connection, on, _AT_ONCE):
            if not evict(gone):
                return evictions.count(connection, on)
            evictions.done(connection, on, gone)
    return 0
