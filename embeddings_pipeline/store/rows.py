"""What is stored of rows that are named by their ids: texts, vectors and status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors.pending import chunk_states, states_of


@dataclass(frozen=True)
class StoredText:
    """A stored chunk."""

    chunk: int
    partition_key: str
    fingerprint: int
    text_hash: bytes | None


@dataclass(frozen=True)
class StoredVector:
    """The vector of a chunk in one set: the run that encoded it, and when the set received it."""

    chunk: int
    text_hash: bytes
    version: int
    run_id: str
    updated_at: datetime


class ChunkState(NamedTuple):
    """The state of a chunk in a set, as `store.vectors.pending` defines it. `floor` is the lowest
    sufficient version."""

    missing: bool
    outdated: bool
    quarantined: bool
    pending: bool
    floor: int


def texts(tables: EntityTables, row_id: str) -> list[StoredText]:
    """The chunks of a row, in order."""
    rows = tables.execute(
        "select chunk, partition_key, fingerprint, text_hash from {texts}"
        " where {id} = %s::{id_type} order by chunk",
        (row_id,),
    )
    return [
        StoredText(chunk, key, fingerprint, text_hash.bytes if text_hash else None)
        for chunk, key, fingerprint, text_hash in rows
    ]


def vectors(tables: EntityTables, vector_set: VectorSet, row_id: str) -> dict[int, StoredVector]:
    """The vectors of a row in a set, by chunk."""
    rows = tables.execute(
        "select chunk, text_hash, version, run_id, updated_at from {vectors}"
        " where {id} = %s::{id_type}",
        (row_id,),
        vectors=tables.table(vector_set.table_name),
    )
    return {row[0]: StoredVector(row[0], row[1].bytes, *row[2:]) for row in rows}


def states(
    tables: EntityTables, vector_set: VectorSet | None, texts: sql.Composable
) -> dict[int, ChunkState]:
    """The state in a set of each chunk of a row, whose texts are given, by chunk."""
    rows = tables.execute(
        "select s.chunk, s.missing, s.outdated, s.quarantined, s.pending, s.floor"
        " from ({states}) as s",
        states=chunk_states(tables.names, vector_set, texts=texts),
    )
    return {chunk: ChunkState(*state) for chunk, *state in rows}


def equal_texts(tables: EntityTables, text_hash: bytes, row_id: str, most: int) -> list[str]:
    """The ids of at most `most` other rows that have a text with this hash."""
    rows = tables.execute(
        "select distinct {id} from {texts} where text_hash = %s::uuid and {id} <> %s::{id_type}"
        " order by 1 limit {most}",
        (text_hash.hex(), row_id),
        most=Literal(most),
    )
    return [str(found) for (found,) in rows]


def usable_in_cache(
    tables: EntityTables, vector_set: VectorSet, hashes: list[bytes], floor: int
) -> bool:
    """Whether the cache has an entry of at least version `floor` for each hash."""
    (found,) = tables.one(
        "select count(*) from {cache} where version >= {floor} and text_hash = any(%s::uuid[])",
        ([text_hash.hex() for text_hash in hashes],),
        cache=tables.table(vector_set.cache_table),
        floor=Literal(floor),
    )
    return bool(found == len(set(hashes)))


def present(tables: EntityTables, ids: Sequence[str]) -> set[str]:
    """Those of the ids that the staging model has, eligible or not."""
    entity = tables.source.entity
    rows = tables.execute(
        "select {id}::text from {staging} where {id} = any(%s::{id_type}[])",
        (list(ids),),
        staging=Identifier(entity.db_schema, entity.table),
    )
    return {row_id for (row_id,) in rows}


def without_text(tables: EntityTables, ids: Sequence[str]) -> set[str]:
    """Those of the ids whose row has no text, or could not be rendered."""
    rows = tables.execute(
        "select {id}::text from {texts} where {id} = any(%s::{id_type}[])"
        " and chunk = 0 and text_hash is null",
        (list(ids),),
    )
    return {row_id for (row_id,) in rows}


def quarantined(tables: EntityTables, live: VectorSet | None, ids: Sequence[str]) -> dict[str, str]:
    """The error of each quarantined id, as a row or as a text of the live set."""
    failed: dict[str, str] = dict(
        tables.execute(
            "select id, min(error) from {quarantine} where entity = {entity} and id = any(%s)"
            " group by id",
            (list(ids),),
        ).fetchall()
    )
    if live is None:
        return failed
    of_texts = tables.execute(
        """
        select s.{id}::text, min(q.error) from {states} s
        join {quarantine} q on q.identity = %(identity)s
            and q.text_hash = any(coalesce(s.part_hashes, array[s.text_hash]))
        where s.quarantined and s.missing and s.{id} = any(%(ids)s::{id_type}[]) group by 1
        """,
        {"identity": live.identity_number, "ids": list(ids)},
        states=states_of(tables.names, live),
    ).fetchall()
    return failed | dict(of_texts)
