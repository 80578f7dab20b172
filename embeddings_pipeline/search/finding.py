"""Finds rows in one published set: as many as were asked for, wherever so many match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgvector import Vector as PgVector
from psycopg import Connection, DataError, ProgrammingError
from psycopg.errors import UndefinedColumn, UndefinedTable

from embeddings_pipeline.encoders.base import Vector
from embeddings_pipeline.search.shape import Shape, look_statement, search_statement
from embeddings_pipeline.store import (
    search_dense,
    search_filters,
    search_session,
    search_text,
)
from embeddings_pipeline.store.bm25 import Words
from embeddings_pipeline.store.fusion import Found
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.published import Published

# chunks that each way brings to a fusion, at the least
_FUSED = 100
# chunks for each row that is wanted, where rows have several; and what a second look multiplies
_SEVERAL = 4
# a look pays where so many times as many texts match; and a look that finds too few is widened
# by so much
_WORTH_A_LOOK = 4
_MORE_TEXTS = 8


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
    words = None
    if wanted.query is not None:
        words = search_text.words(connection, published, wanted.query)
    passing = _passing(connection, published, wanted)
    shape = _first_shape(published, wanted, words, passing)
    while True:
        search_session.use(connection, _settings(published, shape))
        values = _values(wanted)
        if words is not None:
            floor = _floor(connection, published, words, shape, values, passing)
            values |= words.values(words.reaching(floor))
        # a plan for any words and filters would not know how many texts these leave
        prepare = None if words is None else False
        statement = search_statement(published, shape)
        rows = connection.execute(statement, values, prepare=prepare).fetchall()
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


def _first_shape(
    published: Published, wanted: Wanted, words: Words | None, passing: int | None
) -> Shape:
    several = _SEVERAL if published.on.source.entity.chunk else 1
    dense = wanted.vector is not None
    total = published.vector_set.index_rows or 0
    few = passing is not None and search_dense.better_compared(passing, total, wanted.rows)
    return Shape(
        rows=wanted.rows,
        chunks=max(wanted.rows * several, _FUSED if dense and words else 0),
        exact=wanted.exact or (dense and few),
        dense=dense,
        words=len(words.words) if words else None,
        without=wanted.without is not None,
        filters=search_filters.forms(wanted.filters),
    )


def _passing(connection: Connection[Row], published: Published, wanted: Wanted) -> int | None:
    """How many chunks pass the filters, by the planner's estimate; None without filters."""
    if not wanted.filters:
        return None
    table = published.on.table(published.vector_set.table_name)
    where = search_filters.clause(search_filters.forms(wanted.filters), published.filters)
    return search_filters.estimate(connection, table, where, wanted.filters)


def _settings(published: Published, shape: Shape) -> dict[str, str]:
    if not shape.dense:
        return search_text.SESSION
    return search_dense.session(published.vector_set, shape.chunks, index=not shape.exact)


def _values(wanted: Wanted) -> dict[str, Any]:
    values = search_filters.values(wanted.filters)
    if wanted.vector is not None:
        values["vector"] = PgVector(wanted.vector)
    if wanted.without is not None:
        values["without"] = wanted.without
    return values


def _floor(
    connection: Connection[Row],
    published: Published,
    words: Words,
    shape: Shape,
    values: dict[str, Any],
    passing: int | None,
) -> float:
    """A score below which no chunk is among those asked for, so that what cannot reach it need not
    be read; 0 where it takes less to read all that match."""
    share = 1.0 if passing is None else min(1.0, max(passing, 1) / max(words.total, 1))
    texts = search_text.LOOK / share
    while texts < sum(words.documents) / _WORTH_A_LOOK:
        likely = values | words.values(words.likely(texts))
        look = connection.execute(look_statement(published, shape), likely, prepare=False)
        ((floor,),) = look.fetchall()
        if floor is not None:
            return float(floor)
        # the words go together less often than by chance
        texts *= _MORE_TEXTS
    return 0
