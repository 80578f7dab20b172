"""All that is stored about one row: its texts, vectors and quarantine entries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet


@dataclass(frozen=True)
class StoredText:
    """A chunk as `texts` has it."""

    chunk: int
    partition_key: str
    fingerprint: int
    text: str | None
    text_hash: bytes | None
    tokens: int


@dataclass(frozen=True)
class StoredVector:
    """A chunk's vector in one set. `reused_from` is entity/id/chunk, where it was taken over."""

    chunk: int
    text_hash: bytes
    run_id: str
    reused_from: str | None
    embedded_at: datetime


@dataclass(frozen=True)
class Quarantined:
    """A failure of the row; where a model failed, the set that it is of, and on which text."""

    chunk: int
    stage: str
    vector_set: int | None
    text_hash: bytes | None
    error: str
    attempts: int
    first_seen: datetime
    last_seen: datetime


def texts(connection: Connection[Row], on: Statements, row_id: str) -> list[StoredText]:
    """The chunks of a row, in order."""
    rows = connection.execute(
        on.fill(
            "select chunk, partition_key, fingerprint, text, text_hash, tokens from {texts}"
            " where {id} = %s::{id_type} order by chunk"
        ),
        (row_id,),
    )
    return [StoredText(*row) for row in rows]


def vectors(
    connection: Connection[Row], on: Statements, vector_set: VectorSet, row_id: str
) -> dict[int, StoredVector]:
    """The vectors of a row in a set, by chunk."""
    rows = connection.execute(
        on.fill(
            "select chunk, text_hash, run_id, reused_from, embedded_at from {vectors}"
            " where {id} = %s::{id_type}",
            vectors=on.table(vector_set.table_name),
        ),
        (row_id,),
    )
    return {row[0]: StoredVector(*row) for row in rows}


def quarantine(connection: Connection[Row], on: Statements, row_id: str) -> list[Quarantined]:
    """The failures of a row, by chunk."""
    rows = connection.execute(
        on.fill(
            "select chunk, stage, nullif(vector_set, 0), text_hash, error, attempts, first_seen,"
            " last_seen from {quarantine} where entity = {entity} and id = %s"
            " order by chunk, vector_set"
        ),
        (row_id,),
    )
    return [Quarantined(*row) for row in rows]


def erased_at(connection: Connection[Row], on: Statements, row_id: str) -> datetime | None:
    """When the id was erased; None where it was not."""
    row = connection.execute(
        on.fill("select erased_at from {erasures} where entity = {entity} and id = %s"), (row_id,)
    ).fetchone()
    return row[0] if row else None
