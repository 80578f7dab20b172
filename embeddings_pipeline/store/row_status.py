"""Rows named by their ids: whether they exist, and their status."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import Identifier

from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors.pending import states_of


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
