"""A published set read whole, at one moment and a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import Connection, sql
from psycopg.sql import Literal

from embeddings_pipeline.errors import EmbeddingsError
from embeddings_pipeline.store.fusion import fields
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.published import Published, read, version
from embeddings_pipeline.store.queries import SAMPLED

_BATCH = 2_000


@dataclass(frozen=True)
class Batch:
    """(id, chunk, text, fields) of some chunks, and their vectors, of shape (n, dimension)."""

    rows: Sequence[tuple[str, int, str, Mapping[str, Any]]]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]


@contextmanager
def one_moment(connection: Connection[Row], schema: str, entity: str) -> Iterator[Published]:
    """What is published of an entity; all reads in the block see it as it was at one moment.

    Raises ConfigurationError where nothing is published.
    """
    register_vector(connection)
    published = read(connection, schema, entity)
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        query = sql.SQL("select {}").format(version(schema, entity))
        if connection.execute(query).fetchone() != (published.version,):
            raise EmbeddingsError(f"entity {entity!r} was published anew just now: try again")
        yield published


def count(connection: Connection[Row], published: Published) -> int:
    """How many vectors the set has."""
    found = published.on.one(
        connection,
        "select count(*) from {vectors}",
        vectors=published.on.table(published.vector_set.table_name),
    )
    return int(found[0])


def sample(
    connection: Connection[Row], published: Published, size: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Some of the vectors, of shape (at most size, dimension): any, but the same each time."""
    rows = connection.execute(
        published.on.fill(
            "select v.embedding::vector from ({sampled} limit {size}) as t"
            " join {vectors} v using ({id}, chunk)",
            sampled=published.on.fill(SAMPLED),
            vectors=published.on.table(published.vector_set.table_name),
            size=Literal(size),
        ),
        binary=True,
    ).fetchall()
    return np.stack([vector.to_numpy() for (vector,) in rows]).astype(np.float32)


def batches(connection: Connection[Row], published: Published) -> Iterator[Batch]:
    """All chunks of the set; a few thousand are in memory at a time."""
    with connection.cursor(name="export", binary=True) as cursor:
        cursor.execute(
            published.on.fill(
                "select v.{id}::text, v.chunk, v.text, {fields}, v.embedding::vector"
                " from {vectors} v",
                fields=fields(published),
                vectors=published.on.table(published.vector_set.table_name),
            )
        )
        while rows := cursor.fetchmany(_BATCH):
            vectors = np.stack([row[4].to_numpy() for row in rows]).astype(np.float32)
            yield Batch([row[:4] for row in rows], vectors)
