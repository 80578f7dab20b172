"""What a search needs beside its one statement: a stored vector, more columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.fusion import Found
from embeddings_pipeline.store.postgres import Row, columns_of
from embeddings_pipeline.store.published import Published


def vector_of(connection: Connection[Row], published: Published, row_id: str) -> Vector | None:
    """The published vector of a row, the mean of its chunks' vectors; None where it has none."""
    (mean,) = published.on.one(
        connection,
        "select avg(embedding::vector) from {vectors} where {id} = {row_id}::{id_type}",
        vectors=published.on.table(published.vector_set.table_name),
        row_id=sql.Literal(row_id),
    )
    return None if mean is None else np.asarray(mean.to_numpy(), dtype=np.float32)


def with_columns(
    connection: Connection[Row],
    published: Published,
    columns: Sequence[str],
    found: Sequence[Found],
) -> list[Found]:
    """The rows with these columns of the staging model among their fields, as JSON has them.

    A row that is gone from there has nulls. Raises ConfigurationError for a column that is not
    in the model.
    """
    entity = published.on.source.entity
    present = columns_of(connection, entity.db_schema, entity.table)
    for column in columns:
        if column not in present:
            raise ConfigurationError(
                f"column {column!r} is not in {entity.table} (columns: {', '.join(present)})"
            )
    rows = connection.execute(
        published.on.fill(
            "select s.{id}::text, (select to_jsonb(f.*) from (select {columns}) as f)"
            " from {staging} as s where s.{id} = any(%s::{id_type}[])",
            columns=sql.SQL(", ").join(Identifier("s", column) for column in columns),
            staging=Identifier(entity.db_schema, entity.table),
        ),
        ([row.id for row in found],),
    )
    more: dict[str, dict[str, Any]] = dict(rows.fetchall())
    nothing = dict.fromkeys(columns)
    return [replace(row, fields={**row.fields, **more.get(row.id, nothing)}) for row in found]
