"""Runs one search in a published vector set, and repeats it more widely when it found too few."""

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

# fewest chunks that the vector search and the text search each contribute to a hybrid search
_MIN_HYBRID_CHUNKS = 100
# chunks searched for each row where rows have several; also the factor of a repeated search
_CHUNKS_PER_ROW = 4
# a sample of the texts pays where at least this many times as many texts match; a sample with too
# few results is enlarged by the factor _SAMPLE_GROWTH
_MIN_SAMPLE_GAIN = 4
_SAMPLE_GROWTH = 8


class PublishedSetChanged(Exception):
    """The published vector set is no longer the one that was searched."""


@dataclass(frozen=True)
class RowQuery:
    """A search for `rows` rows: near `vector`, containing the words of `query`, or fused from both.

    `exclude` is the id of a row to leave out.
    """

    rows: int
    vector: Vector | None = None
    query: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    exclude: str | None = None
    exact: bool = False


def find(connection: Connection[Row], published: Published, query: RowQuery) -> list[Found]:
    """Return the rows found, best first; fewer than `query.rows` only where no more match.

    Raises PublishedSetChanged where another vector set was published meanwhile, and
    ConfigurationError for a filter that does not fit its column.
    """
    try:
        return _search(connection, published, query)
    except (UndefinedTable, UndefinedColumn):
        raise PublishedSetChanged from None
    except (DataError, ProgrammingError):
        filters.explain_refusal(connection, query.filters, published.filters)
        raise


def _search(connection: Connection[Row], published: Published, query: RowQuery) -> list[Found]:
    words = None
    if query.query is not None:
        words = lexical.words(connection, published, query.query)
    passing = _passing(connection, published, query)
    shape = _first_shape(published, query, words, passing)
    while True:
        session.use(connection, _settings(published, shape))
        values = _values(query)
        if words is not None:
            floor = _floor(connection, published, words, shape, values, passing)
            values |= words.values(words.reaching(floor))
        # a generic plan would not know how many texts the words and filters leave
        prepare = None if words is None else False
        statement = search_statement(published, shape)
        rows = connection.execute(statement, values, prepare=prepare).fetchall()
        version, seen = rows[0][:2]
        if version != published.version:
            raise PublishedSetChanged
        found = [Found(*row[2:]) for row in rows if row[2] is not None]
        if len(found) >= query.rows:
            return found
        if max(seen) >= shape.chunks:
            # several chunks belonged to one row
            shape = replace(shape, chunks=shape.chunks * _CHUNKS_PER_ROW)
        elif shape.exact or not shape.dense:
            return found
        else:
            # an index scan stops at a limit, so more rows may match
            shape = replace(shape, exact=True)


def _first_shape(
    published: Published, query: RowQuery, words: Words | None, passing: int | None
) -> StatementShape:
    several = _CHUNKS_PER_ROW if published.names.source.entity.chunk else 1
    dense = query.vector is not None
    total = published.vector_set.index_rows or 0
    few = passing is not None and dense_search.better_compared(passing, total, query.rows)
    return StatementShape(
        rows=query.rows,
        chunks=max(query.rows * several, _MIN_HYBRID_CHUNKS if dense and words else 0),
        exact=query.exact or (dense and few),
        dense=dense,
        words=len(words.words) if words else None,
        exclude=query.exclude is not None,
        filters=filters.forms(query.filters),
    )


def _passing(connection: Connection[Row], published: Published, query: RowQuery) -> int | None:
    """Return the planner's estimate of how many chunks pass the filters; None without filters."""
    if not query.filters:
        return None
    table = published.names.table(published.vector_set.table_name)
    where = filters.clause(filters.forms(query.filters), published.filters)
    return filters.estimate(connection, table, where, query.filters)


def _settings(published: Published, shape: StatementShape) -> dict[str, str]:
    if not shape.dense:
        return lexical.SESSION
    return dense_search.session(published.vector_set, shape.chunks, index=not shape.exact)


def _values(query: RowQuery) -> dict[str, Any]:
    values = filters.values(query.filters)
    if query.vector is not None:
        values["vector"] = PgVector(query.vector)
    if query.exclude is not None:
        values["exclude"] = query.exclude
    return values


def _floor(
    connection: Connection[Row],
    published: Published,
    words: Words,
    shape: StatementShape,
    values: dict[str, Any],
    passing: int | None,
) -> float:
    """Return a score that every chunk among the results reaches.

    The search skips texts that cannot reach the score. Returns 0 where reading all matching texts
    is cheaper.
    """
    share = 1.0 if passing is None else min(1.0, max(passing, 1) / max(words.total, 1))
    texts = lexical.MIN_SAMPLE / share
    while texts < sum(words.documents) / _MIN_SAMPLE_GAIN:
        likely = values | words.values(words.likely(texts))
        look = connection.execute(floor_statement(published, shape), likely, prepare=False)
        ((floor,),) = look.fetchall()
        if floor is not None:
            return float(floor)
        # the words occur together less often than by chance
        texts *= _SAMPLE_GROWTH
    return 0


@dataclass(frozen=True)
class StatementShape:
    """All that decides the SQL text of a search; the rest are parameters of the statement."""

    rows: int
    chunks: int
    exact: bool
    dense: bool
    # number of words of the query; None without a text search
    words: int | None
    exclude: bool
    filters: Forms


# cached, since composing a statement takes a tenth of the time of a search
@lru_cache(maxsize=256)
def search_statement(published: Published, shape: StatementShape) -> bytes:
    """Return the statement of a search, with the columns of `hybrid.statement`."""
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
def floor_statement(published: Published, shape: StatementShape) -> bytes:
    """Return the statement that reads a sample of the matching texts for `lexical.floor`."""
    where = _where(published, shape)
    return lexical.floor(published, where, shape.words or 0, shape.chunks).as_bytes()


def _where(published: Published, shape: StatementShape) -> sql.Composable:
    where = filters.clause(shape.filters, published.filters)
    if shape.exclude:
        where = published.names.fill("{all} and v.{id} <> %(exclude)s::{id_type}", all=where)
    return where


class _Scored(Protocol):
    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=_Scored)


def apply_threshold(
    request: AnyRequest, settings: Settings, metric: str, found: Sequence[S]
) -> Sequence[S]:
    """Return the rows that reach the request's threshold, or EMBEDDING_SIMILARITY_THRESHOLD."""
    min_similarity = request.min_similarity
    if min_similarity is None and request.max_distance is None:
        min_similarity = settings.embedding_similarity_threshold
    least = least_similarity(metric, min_similarity, request.max_distance)
    return [row for row in found if least is None or row.score >= least]
