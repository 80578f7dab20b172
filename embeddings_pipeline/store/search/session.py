"""Connections for searches. Settings stay in the session, so that a search is one round trip."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pgvector.psycopg import register_vector
from psycopg import Connection

from embeddings_pipeline.store.connection import Row

# an index scan continues until it finds enough matching rows; the statement sorts them afterwards
_SETTINGS = """
    set hnsw.iterative_scan = relaxed_order; set ivfflat.iterative_scan = relaxed_order
"""
_present: WeakKeyDictionary[Connection[Row], dict[str, str]] = WeakKeyDictionary()


def prepare(connection: Connection[Row]) -> None:
    """Make a new connection ready for searches."""
    register_vector(connection)
    connection.execute(_SETTINGS)
    _present[connection] = {}


def use(connection: Connection[Row], settings: dict[str, str]) -> None:
    """Set these in the session, where they differ."""
    present = _present[connection]
    for name, value in settings.items():
        if present.get(name) != value:
            connection.execute("select set_config(%s, %s, false)", (name, value))
            present[name] = value
