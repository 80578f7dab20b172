"""Finds rows in one published set: as many as were asked for, wherever so many match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from pgvector import Vector as PgVector
from psycopg import Connection, DataError, ProgrammingError, sql
from psycopg.errors import UndefinedColumn, UndefinedTable

from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.search.requests import AnyRequest
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.search import dense as dense_search
from embeddings_pipeline.store.search import filters, hybrid, lexical, session
from embeddings_pipeline.store.search.dense import least_similarity
from embeddings_pipeline.store.search.filters import Forms
from embeddings_pipeline.store.search.hybrid import Found
from embeddings_pipeline.store.search.lexical import Words
from embeddings_pipeline.store.search.published import Published

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
        filters.explain_refusal(connection, wanted.filters, published.filters)
        raise


def _search(connection: Connection[Row], published: Published, wanted: Wanted) -> list[Found]:
    words = None
    if wanted.query is not None:
        words = lexical.words(connection, published, wanted.query)
    passing = _passing(connection, published, wanted)
    shape = _first_shape(published, wanted, words, passing)
    while True:
        session.use(connection, _settings(published, shape))
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
    published: Published, query: RowQuery, words: Words | None, passing: int | None
) -> StatementShape:
    several = _CHUNKS_PER_ROW if published.names.source.entity.chunk else 1
    dense = query.vector is not None
    total = published.vector_set.index_rows or 0
    few = passing is not None and dense_search.better_compared(passing, total, wanted.rows)
    return Shape(
        rows=wanted.rows,
        chunks=max(wanted.rows * several, _FUSED if dense and words else 0),
        exact=wanted.exact or (dense and few),
        dense=dense,
        words=len(words.words) if words else None,
        without=wanted.without is not None,
        filters=filters.forms(wanted.filters),
    )


def _passing(connection: Connection[Row], published: Published, wanted: Wanted) -> int | None:
    """How many chunks pass the filters, by the planner's estimate; None without filters."""
    if not wanted.filters:
        return None
    table = published.names.table(published.vector_set.table_name)
    where = filters.clause(filters.forms(query.filters), published.filters)
    return filters.estimate(connection, table, where, query.filters)


def _settings(published: Published, shape: Shape) -> dict[str, str]:
    if not shape.dense:
        return lexical.SESSION
    return dense_search.session(published.vector_set, shape.chunks, index=not shape.exact)


def _values(wanted: Wanted) -> dict[str, Any]:
    values = filters.values(wanted.filters)
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
    texts = lexical.LOOK / share
    while texts < sum(words.documents) / _WORTH_A_LOOK:
        likely = values | words.values(words.likely(texts))
        look = connection.execute(look_statement(published, shape), likely, prepare=False)
        ((floor,),) = look.fetchall()
        if floor is not None:
            return float(floor)
        # the words go together less often than by chance
        texts *= _MORE_TEXTS
    return 0


@dataclass(frozen=True)
class Shape:
    """All of a search that is not a parameter of its statement."""

    rows: int
    chunks: int
    exact: bool
    dense: bool
    # how many words of a query, where it is a search by words
    words: int | None
    without: bool
    filters: Forms


# to compose a statement takes a tenth of the time of a search
@lru_cache(maxsize=256)
def search_statement(published: Published, shape: Shape) -> bytes:
    """A whole search: its rows are those of `hybrid.statement`."""
    where = _where(published, shape)
    if shape.words is None and published.names.source.entity.chunk is None:
        more = hybrid.whole(published)
        near = dense_search.near(published, where, shape.chunks, exact=shape.exact, more=more)
        return hybrid.nearest(published, near).as_bytes()
    ways = {}
    if shape.dense:
        ways["dense"] = dense_search.near(published, where, shape.chunks, exact=shape.exact)
    if shape.words is not None:
        ways["text"] = lexical.matching(published, where, shape.words, shape.chunks)
    return hybrid.statement(published, ways, shape.rows).as_bytes()


@lru_cache(maxsize=256)
def look_statement(published: Published, shape: Shape) -> bytes:
    """A look at some of the texts that match: its one value is that of `lexical.floor`."""
    where = _where(published, shape)
    return lexical.floor(published, where, shape.words or 0, shape.chunks).as_bytes()


def _where(published: Published, shape: Shape) -> sql.Composable:
    where = filters.clause(shape.filters, published.filters)
    if shape.exclude:
        where = published.names.fill("{all} and v.{id} <> %(exclude)s::{id_type}", all=where)
    return where


class _Scored(Protocol):
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def near_enough(
    request: AnyRequest, settings: Settings, metric: str, found: Sequence[S]
) -> Sequence[S]:
    """Those whose similarity reaches what the request asks for, or else the settings."""
    asked = request.min_similarity
    if asked is None and request.max_distance is None:
        asked = settings.embedding_similarity_threshold
    least = least_similarity(metric, asked, request.max_distance)
    return [row for row in found if least is None or row.score >= least]
