"""Connections for searches. Settings stay in the session, so that a search is one round trip;
behind a pooler that gives each transaction another session they end with the transaction."""

from __future__ import annotations

from typing import LiteralString
from weakref import WeakKeyDictionary

from pgvector.psycopg import register_vector
from psycopg import Connection
from psycopg.pq import TransactionStatus

from embeddings_pipeline.store.connection import Row

# an index scan continues until it finds enough matching rows; the statement sorts them afterwards
SETTINGS: LiteralString = """;
    set {scope} hnsw.iterative_scan = relaxed_order;
    set {scope} ivfflat.iterative_scan = relaxed_order
"""
_present: WeakKeyDictionary[Connection[Row], dict[str, str]] = WeakKeyDictionary()


def prepare(connection: Connection[Row]) -> None:
    """Make a new connection ready for searches."""
    register_vector(connection)
    _present[connection] = {}


def use(connection: Connection[Row], settings: dict[str, str]) -> None:
    """Set these in the session, where they differ, or in the transaction that is open."""
    in_transaction = connection.info.transaction_status is TransactionStatus.INTRANS
    present = {} if in_transaction else _present[connection]
    for name, value in settings.items():
        if present.get(name) != value:
            connection.execute("select set_config(%s, %s, %s)", (name, value, in_transaction))
            present[name] = value
