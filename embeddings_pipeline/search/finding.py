"""Finds rows in one published set: as many as were asked for, wherever so many match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pgvector import Vector as PgVector
from psycopg import Connection, DataError, ProgrammingError, sql
from psycopg.errors import UndefinedColumn, UndefinedTable

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.store import (
    fusion,
    search_dense,
    search_filters,
    search_session,
    search_text,
)
from embeddings_pipeline.store.fusion import Found
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.published import Published
from embeddings_pipeline.store.search_filters import Condition

# chunks that each way brings to a fusion, at the least
_FUSED = 100
# chunks for each row that is wanted, where rows have several; and what a second look multiplies
_SEVERAL = 4


class MovedError(Exception):
    """Something else is published by now than what was searched."""


@dataclass(frozen=True)
class Wanted:
    """So many rows, near to a vector, with the words of a query, or fused from both."""

    rows: int
    vector: Vector | None = None
    query: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    without: str | None = None
    exact: bool = False


def find(connection: Connection[Row], published: Published, wanted: Wanted) -> list[Found]:
    """The rows found, best first; fewer than wanted only where no more match.

    Raises Moved, and ConfigurationError for a filter that does not fit its column.
    """
    where = _where(published, wanted)
    try:
        return _search(connection, published, wanted, where)
    except (UndefinedTable, UndefinedColumn):
        raise MovedError from None
    except (DataError, ProgrammingError):
        search_filters.explain_refusal(connection, wanted.filters, published.filters)
        raise


def _search(
    connection: Connection[Row], published: Published, wanted: Wanted, where: Condition
) -> list[Found]:
    values: dict[str, Any] = dict(where.values)
    if wanted.vector is not None:
        values["vector"] = PgVector(wanted.vector)
    if wanted.query is not None:
        values |= search_text.words(connection, published, wanted.query).values()
    chunks, exact = _first_look(published, wanted), wanted.exact
    while True:
        ways = _ways(published, wanted, where, chunks, exact=exact)
        if wanted.vector is not None:
            search_session.use(
                connection, search_dense.session(published.vector_set, chunks, exact=exact)
            )
        rows = connection.execute(fusion.statement(published, ways, wanted.rows), values).fetchall()
        version, seen = rows[0][:2]
        if version != published.version:
            raise MovedError
        found = [Found(*row[2:]) for row in rows if row[2] is not None]
        if len(found) >= wanted.rows:
            return found
        if max(seen) >= chunks:
            # they were chunks of fewer rows
            chunks *= _SEVERAL
        elif exact or wanted.vector is None:
            return found
        else:
            # a scan of an index gives up at some point: there may be more
            exact = True


def _first_look(published: Published, wanted: Wanted) -> int:
    several = _SEVERAL if published.on.source.entity.chunk else 1
    fused = _FUSED if wanted.vector is not None and wanted.query is not None else 0
    return max(wanted.rows * several, fused)


def _ways(
    published: Published, wanted: Wanted, where: Condition, chunks: int, *, exact: bool
) -> dict[str, sql.Composable]:
    ways = {}
    if wanted.vector is not None:
        ways["dense"] = search_dense.near(published, where, chunks, exact=exact)
    if wanted.query is not None:
        ways["text"] = search_text.matching(published, where, chunks)
    return ways


def _where(published: Published, wanted: Wanted) -> Condition:
    chosen = search_filters.condition(wanted.filters, published.filters)
    if wanted.without is None:
        return chosen
    other = published.on.fill("{all} and v.{id} <> %(without)s::{id_type}", all=chosen.clause)
    return Condition(other, {**chosen.values, "without": wanted.without})
