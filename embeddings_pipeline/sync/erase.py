"""Removes rows at once and for good, and lets them be tried again. Never encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from embeddings_pipeline.store import locks
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.retry import resumed
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.texts import erasures, quarantine, texts
from embeddings_pipeline.store.texts import tables as text_tables
from embeddings_pipeline.store.vectors import cache
from embeddings_pipeline.store.vectors.cache import Evict


class Erased(NamedTuple):
    """How many of the ids had a text, and how many texts a cache could not be told to forget."""

    rows: int
    left_in_cache: int


def erase(database: Postgres, names: TableNames, ids: Sequence[str], evict: Evict) -> Erased:
    """Remove every trace of these ids and skip them from now on.

    The ids are noted first: a pass that is under way then leaves them out, and a model that is at
    work on one finds no text to store its vector for. What of their texts no other row has leaves
    the embedding cache right after them. A Redis that cannot be reached is told by the next run.
    """
    rows = _erase(database, names, names.source.canonical_ids(ids))
    return Erased(rows, collect_erased(database, names, evict))


@resumed
def collect_erased(database: Postgres, names: TableNames, evict: Evict) -> int:
    """Let the caches forget what is erased; returns how many hashes a later run has to try
    again."""
    with open_tables(database, names) as tables:
        return cache.collect(tables, evict, erased_only=True)


@resumed
def _erase(database: Postgres, names: TableNames, ids: Sequence[str]) -> int:
    with open_tables(database, names) as tables:
        # perhaps an id is erased before anything of the entity was ever stored
        text_tables.ensure_entity(tables.connection, names.schema, names.source)
        erasures.add(tables, ids)
        with locks.entity(tables):
            return texts.delete(tables, ids, erased=True)


@resumed
def lift(database: Postgres, names: TableNames, ids: Sequence[str]) -> int:
    """Let the next pass take these ids again; returns how many were erased."""
    ids = names.source.canonical_ids(ids)
    with open_tables(database, names) as tables:
        return erasures.remove(tables, ids)


@resumed
def retry(database: Postgres, names: TableNames) -> int:
    """Let the next run try everything in quarantine again; returns how many entries there are."""
    with open_tables(database, names) as tables:
        text_tables.ensure_entity(tables.connection, names.schema, names.source)
        with locks.entity(tables):
            return quarantine.reset(tables)
