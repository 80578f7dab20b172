"""What it means, in SQL, that an encoder failed on a chunk: one rule for all who ask."""

from __future__ import annotations

from psycopg import sql

from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import VectorSet

# a text that failed this often is left alone until it changes or `retry` is asked
MAX_ATTEMPTS = 3


def entry_of(
    on: Statements, vector_set: VectorSet | None, chunk: str, row_id: sql.Composable | None = None
) -> sql.Composable:
    """A condition on `q`, an entry of quarantine: that it is of this chunk's text in the set.

    `chunk` is an alias of something with the columns of `texts`, its id perhaps by another name.
    Where there is no set yet, nothing has failed.
    """
    return on.fill(
        "q.entity = {entity} and q.vector_set = {number} and q.id = {chunk}.{row_id}::text"
        " and q.chunk = {chunk}.chunk and q.text_hash = {chunk}.text_hash",
        number=sql.Literal(vector_set.number if vector_set else None),
        chunk=sql.Identifier(chunk),
        row_id=row_id or on.names["id"],
    )


def left_alone(
    on: Statements, vector_set: VectorSet | None, chunk: str, row_id: sql.Composable | None = None
) -> sql.Composable:
    """Whether the chunk's text failed in the set so often that a run does not try it again."""
    return on.fill(
        "exists (select from {quarantine} q where {entry} and q.attempts >= {attempts})",
        entry=entry_of(on, vector_set, chunk, row_id),
        attempts=sql.Literal(MAX_ATTEMPTS),
    )


def removal(on: Statements, vector_set: VectorSet) -> sql.Composable:
    """A statement that removes the entries of `written`, the (id, chunk) that have a vector now."""
    return on.fill(
        "delete from {quarantine} q using written w where q.entity = {entity}"
        " and q.vector_set = {number} and q.id = w.id and q.chunk = w.chunk",
        number=sql.Literal(vector_set.number),
    )


def of_sets_in_use(on: Statements) -> sql.Composable:
    """A condition on `q`: that it is of no set at all, or of one that is not retired."""
    return on.fill(
        "(q.vector_set = 0 or q.vector_set in (select number from {vector_sets}"
        " where entity = {entity} and state <> 'retired'))"
    )
