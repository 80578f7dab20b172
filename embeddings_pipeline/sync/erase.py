"""Removes rows at once and for good, and lets them be tried again. Never encodes."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_pipeline.store import entity_tables, erasures, locks, passes, texts
from embeddings_pipeline.store.postgres import Postgres, resumed
from embeddings_pipeline.store.statements import Statements


@resumed
def erase(database: Postgres, on: Statements, ids: Sequence[str]) -> int:
    """Remove every trace of these ids and skip them from now on; returns how many had a text.

    The ids are noted first: a pass that is under way then leaves them out, and a model that is
    at work on one finds no text to store its vector for.
    """
    ids = on.source.canonical_ids(ids)
    with database.connection() as connection:
        # perhaps an id is erased before anything of the entity was ever stored
        entity_tables.ensure_entity(connection, on.schema, on.source)
        erasures.add(connection, on, ids)
        with locks.entity(connection, on):
            return texts.delete(connection, on, ids)


@resumed
def lift(database: Postgres, on: Statements, ids: Sequence[str]) -> int:
    """Let the next pass take these ids again; returns how many were erased."""
    ids = on.source.canonical_ids(ids)
    with database.connection() as connection:
        return erasures.remove(connection, on, ids)


@resumed
def retry(database: Postgres, on: Statements) -> int:
    """Let the next run try everything in quarantine again; returns how many entries there are."""
    with database.connection() as connection:
        entity_tables.ensure_entity(connection, on.schema, on.source)
        with locks.entity(connection, on):
            return passes.retry(connection, on)
