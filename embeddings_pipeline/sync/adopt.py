"""Adopts the existing vectors of a team, where text and model are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError, RunNeeded
from embeddings_pipeline.store import locks
from embeddings_pipeline.store.connection import Postgres, columns_of
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.texts import text_tables
from embeddings_pipeline.store.vectors import adoption
from embeddings_pipeline.store.vectors.adoption import Foreign
from embeddings_pipeline.store.vectors.sets import ensure_set

# rows whose vectors are compared with new ones before any is adopted
_PROOF = 5
# bfloat16 and float32 vectors of one model are more similar than this, those of two models less
_SAME_MODEL = 0.99


@dataclass(frozen=True)
class Adopted:
    """Rows of the foreign table, and how many chunks got a vector from it."""

    rows: int
    fitted: int


def adopt(
    database: Postgres, names: TableNames, encoders: Encoders, foreign: Foreign, run_id: str
) -> Adopted:
    """Fill the embedding cache from a table of the same database, by id and equal text. The next
    run projects the vectors.

    Encodes a few of the texts first, and compares the vectors. Raises RunNeeded for an entity
    without texts, and ConfigurationError for a missing table or column, another dimension, or
    vectors of another model.
    """
    encoder = encoders.for_entity(names.source.entity)
    with open_tables(database, names) as tables:
        columns = columns_of(tables.connection, foreign.schema, foreign.table)
        for column in (foreign.id, foreign.text, foreign.embedding):
            if column not in columns:
                raise ConfigurationError(
                    f"table {foreign.schema}.{foreign.table} has no column {column!r} (columns:"
                    f" {', '.join(columns) or 'none, there is no such table'})"
                )
        _refuse_without_texts(tables)
        _refuse_other_dimensions(
            adoption.dimensions(tables.connection, foreign), encoder.identity.dimension
        )
        vector_set = ensure_set(tables, encoder.identity)
        for text, vector in adoption.sample(tables, foreign, vector_set, _PROOF):
            _prove(vector, encoder.encode_documents([text]).raise_if_stopped().vectors[0], text)
        with locks.entity(tables):
            fitted = adoption.copy(tables, foreign, vector_set, run_id)
        return Adopted(adoption.count(tables.connection, foreign), fitted)


def _refuse_without_texts(tables: EntityTables) -> None:
    name = tables.entity
    if not text_tables.exist(tables.connection, tables.schema, name):
        raise RunNeeded(
            f"entity {name!r} has no texts yet, by which vectors are taken over: run its asset"
            f" {name}/texts, or `embeddings-pipeline run {name}`, first"
        )


def _refuse_other_dimensions(theirs: Sequence[int], ours: int) -> None:
    if theirs and ours not in theirs:
        raise ConfigurationError(
            f"the table's vectors have {' or '.join(map(str, theirs))} dimensions, the model's"
            f" {ours}: nothing was taken"
        )


def _prove(
    theirs: np.ndarray[tuple[int], np.dtype[np.float32]],
    ours: np.ndarray[tuple[int], np.dtype[np.float32]],
    text: str,
) -> None:
    cosine = float(theirs @ ours / (np.linalg.norm(theirs) * np.linalg.norm(ours)))
    if cosine < _SAME_MODEL:
        raise ConfigurationError(
            f"the table's vector of {text[:60]!r} is not this model's (cosine {cosine:.3f} to what"
            " it makes of that text): nothing was taken"
        )
