"""Finds rows in one published set: as many as were asked for, wherever so many match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pgvector import Vector as PgVector
from psycopg import Connection, DataError, ProgrammingError
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
from embeddings_pipeline.store.search_filters import Forms

# chunks that each way brings to a fusion, at the least
_FUSED = 100
# chunks for each row that is wanted, where rows have several; and what a second look multiplies
_SEVERAL = 4
# what a row that an index passes costs more than one that is compared
_INDEX_PRICE = 10


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


@dataclass(frozen=True)
class _Shape:
    """All of a search that is not a parameter of its statement."""

    rows: int
    chunks: int
    exact: bool
    dense: bool
    text: bool
    without: bool
    filters: Forms


def find(connection: Connection[Row], published: Published, wanted: Wanted) -> list[Found]:
    """The rows found, best first; fewer than wanted only where no more match.

    Raises MovedError, and ConfigurationError for a filter that does not fit its column.
    """
    try:
        return _search(connection, published, wanted)
    except (UndefinedTable, UndefinedColumn):
        raise MovedError from None
    except (DataError, ProgrammingError):
        search_filters.explain_refusal(connection, wanted.filters, published.filters)
        raise


def _search(connection: Connection[Row], published: Published, wanted: Wanted) -> list[Found]:
    shape = _first_shape(connection, published, wanted)
    values = _values(connection, published, wanted)
    while True:
        index = shape.dense and not shape.exact
        settings = search_dense.session(published.vector_set, shape.chunks, index=index)
        search_session.use(connection, settings)
        rows = connection.execute(_statement(published, shape), values).fetchall()
        version, seen = rows[0][:2]
        if version != published.version:
            raise MovedError
        found = [Found(*row[2:]) for row in rows if row[2] is not None]
        if len(found) >= wanted.rows:
            return found
        if max(seen) >= shape.chunks:
            # they were chunks of fewer rows
            shape = replace(shape, chunks=shape.chunks * _SEVERAL)
        elif shape.exact or not shape.dense:
            return found
        else:
            # a scan of an index gives up at some point: there may be more
            shape = replace(shape, exact=True)


def _first_shape(connection: Connection[Row], published: Published, wanted: Wanted) -> _Shape:
    several = _SEVERAL if published.on.source.entity.chunk else 1
    dense, text = wanted.vector is not None, wanted.query is not None
    return _Shape(
        rows=wanted.rows,
        chunks=max(wanted.rows * several, _FUSED if dense and text else 0),
        exact=wanted.exact or (dense and _few_match(connection, published, wanted)),
        dense=dense,
        text=text,
        without=wanted.without is not None,
        filters=search_filters.forms(wanted.filters),
    )


def _values(connection: Connection[Row], published: Published, wanted: Wanted) -> dict[str, Any]:
    values = search_filters.values(wanted.filters)
    if wanted.vector is not None:
        values["vector"] = PgVector(wanted.vector)
    if wanted.query is not None:
        values |= search_text.words(connection, published, wanted.query).values()
    if wanted.without is not None:
        values["without"] = wanted.without
    return values


# to compose a statement takes a tenth of the time of a search
@lru_cache(maxsize=256)
def _statement(published: Published, shape: _Shape) -> bytes:
    where = search_filters.clause(shape.filters, published.filters)
    if shape.without:
        where = published.on.fill("{all} and v.{id} <> %(without)s::{id_type}", all=where)
    ways = {}
    if shape.dense:
        ways["dense"] = search_dense.near(published, where, shape.chunks, exact=shape.exact)
    if shape.text:
        ways["text"] = search_text.matching(published, where, shape.chunks)
    return fusion.statement(published, ways, shape.rows).as_bytes()


def _few_match(connection: Connection[Row], published: Published, wanted: Wanted) -> bool:
    """Whether it takes less to compare all rows that pass the filters.

    To compare m of n rows takes m times the work of one; an index passes k n / m rows to meet k of
    them, at some ten times the work for each.
    """
    if not wanted.filters:
        return False
    table = published.on.table(published.vector_set.table_name)
    where = search_filters.clause(search_filters.forms(wanted.filters), published.filters)
    passing = search_filters.estimate(connection, table, where, wanted.filters)
    total = published.vector_set.index_rows or 0
    return passing**2 <= _INDEX_PRICE * wanted.rows * total


def _first_look(published: Published, wanted: Wanted) -> int:
    several = _SEVERAL if published.on.source.entity.chunk else 1
    fused = _FUSED if wanted.vector is not None and wanted.query is not None else 0
    return max(wanted.rows * several, fused)
