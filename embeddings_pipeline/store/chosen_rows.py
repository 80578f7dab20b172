"""Rows that someone names by their ids: whether they can be taken, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg import Connection
from psycopg.sql import Identifier

from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements


def present(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> set[str]:
    """Those of these ids that the staging model has, eligible or not."""
    entity = on.source.entity
    rows = connection.execute(
        on.fill(
            "select {id}::text from {staging} where {id} = any(%s::{id_type}[])",
            staging=Identifier(entity.db_schema, entity.table),
        ),
        (list(ids),),
    )
    return {row_id for (row_id,) in rows}


def erased(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> dict[str, datetime]:
    """When these ids were erased, those that were."""
    rows = connection.execute(
        on.fill("select id, erased_at from {erasures} where entity = {entity} and id = any(%s)"),
        (list(ids),),
    )
    return dict(rows.fetchall())


def without_text(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> set[str]:
    """Those of these ids whose row says nothing, or could not be rendered."""
    rows = connection.execute(
        on.fill(
            "select {id}::text from {texts} where {id} = any(%s::{id_type}[])"
            " and chunk = 0 and text_hash is null"
        ),
        (list(ids),),
    )
    return {row_id for (row_id,) in rows}


def quarantined(connection: Connection[Row], on: Statements, ids: Sequence[str]) -> dict[str, str]:
    """Why these ids, those that are, are in quarantine: as texts, or for the live set."""
    rows = connection.execute(
        on.fill(
            "select id, min(error) from {quarantine} where entity = {entity} and id = any(%s)"
            " and (vector_set = 0 or vector_set = (select number from {vector_sets}"
            " where entity = {entity} and state = 'live')) group by id"
        ),
        (list(ids),),
    )
    return dict(rows.fetchall())
