"""Erases rows at once and permanently, and resets failures. Never encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from embeddings_pipeline.store import locks, removal
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.texts import erasures, quarantine, text_tables, texts
from embeddings_pipeline.store.vectors import cache
from embeddings_pipeline.store.vectors.cache import Evict
from embeddings_pipeline.store.wire import encoding_of, stored_id


class Erased(NamedTuple):
    """How many of the ids had a text, and how many texts could not be removed from a cache."""

    rows: int
    left_in_cache: int


def erase(database: Postgres, names: TableNames, ids: Sequence[str], evict: Evict) -> Erased:
    """Delete everything stored of these ids, and skip them from now on.

    The ids are recorded first, so that a running pass leaves them out, and the vector of a text
    that is being encoded is not stored. Then texts that no other row has are removed from the
    embedding caches. Where Redis cannot be reached, the next run removes them."""
    rows = _erase(database, names, names.source.canonical_ids(ids))
    return Erased(rows, collect_erased(database, names, evict))


@resumed
def collect_erased(database: Postgres, names: TableNames, evict: Evict) -> int:
    """Remove erased texts from the caches; returns how many hashes a later run must try again."""
    with open_tables(database, names) as tables:
        return cache.collect(tables, evict, erased_only=True)


@resumed
def _erase(database: Postgres, names: TableNames, ids: Sequence[str]) -> int:
    with open_tables(database, names) as tables:
        ids = _stored(tables, ids)
        # an id may be erased before the first run of the entity
        text_tables.ensure_entity(tables.connection, names.schema, names.source)
        erasures.add(tables, ids)
        with locks.entity(tables):
            return texts.delete(tables, ids, erased=True)


@resumed
def lift(database: Postgres, names: TableNames, ids: Sequence[str]) -> int:
    """Lift the erasure, so that the next pass reads these ids again; returns how many were
    erased."""
    ids = names.source.canonical_ids(ids)
    with open_tables(database, names) as tables:
        return erasures.remove(tables, _stored(tables, ids))


def _stored(tables: EntityTables, ids: Sequence[str]) -> list[str]:
    encoding = encoding_of(tables.connection)
    return [stored_id(row_id, encoding) for row_id in ids]


@resumed
def drop(database: Postgres, names: TableNames, evict: Evict) -> None:
    """Drop the tables of an entity without rows, and the vectors of the embedding caches that only
    its texts had. Raises as `removal.drop` does."""
    with open_tables(database, names) as tables, locks.entity(tables):
        removal.require_empty(tables)
        cache.collect(tables, evict)
        removal.drop(tables)


@resumed
def retry(database: Postgres, names: TableNames) -> int:
    """Make the next run try everything in quarantine again; returns the number of entries."""
    with open_tables(database, names) as tables:
        text_tables.ensure_entity(tables.connection, names.schema, names.source)
        with locks.entity(tables):
            return quarantine.reset(tables)
