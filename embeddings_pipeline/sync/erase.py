"""Removes rows at once and for good, and lets them be tried again. Never encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from embeddings_pipeline.store import locks
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.tables import EntityTables, Statements
from embeddings_pipeline.store.texts import erasures, quarantine, texts
from embeddings_pipeline.store.texts import tables as text_tables
from embeddings_pipeline.store.vectors import cache
from embeddings_pipeline.store.vectors.cache import Evict


class Erased(NamedTuple):
    """How many of the ids had a text, and how many texts a cache could not be told to forget."""

    rows: int
    left_in_cache: int


def erase(database: Postgres, on: Statements, ids: Sequence[str], evict: Evict) -> Erased:
    """Remove every trace of these ids and skip them from now on.

    The ids are noted first: a pass that is under way then leaves them out, and a model that is at
    work on one finds no text to store its vector for. What of their texts no other row has leaves
    the embedding cache right after them. A Redis that cannot be reached is told by the next run.
    """
    rows = _erase(database, on, on.source.canonical_ids(ids))
    return Erased(rows, collect_erased(database, on, evict))


@resumed
def collect_erased(database: Postgres, on: Statements, evict: Evict) -> int:
    """Let the caches forget what is erased; returns how many hashes a later run has to try
    again."""
    with database.connection() as connection:
        return cache.collect(EntityTables(connection, on), evict, erased_only=True)


@resumed
def _erase(database: Postgres, on: Statements, ids: Sequence[str]) -> int:
    with database.connection() as connection:
        # perhaps an id is erased before anything of the entity was ever stored
        text_tables.ensure_entity(connection, on.schema, on.source)
        tables = EntityTables(connection, on)
        erasures.add(tables, ids)
        with locks.entity(connection, on):
            return texts.delete(tables, ids, erased=True)


@resumed
def lift(database: Postgres, on: Statements, ids: Sequence[str]) -> int:
    """Let the next pass take these ids again; returns how many were erased."""
    ids = on.source.canonical_ids(ids)
    with database.connection() as connection:
        return erasures.remove(EntityTables(connection, on), ids)


@resumed
def retry(database: Postgres, on: Statements) -> int:
    """Let the next run try everything in quarantine again; returns how many entries there are."""
    with database.connection() as connection:
        text_tables.ensure_entity(connection, on.schema, on.source)
        with locks.entity(connection, on):
            return quarantine.reset(EntityTables(connection, on))
