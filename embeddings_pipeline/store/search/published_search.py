"""Searches the published vector set of an entity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, LiteralString

import numpy as np
from pgvector import Vector as PgVector
from psycopg import Connection, DataError, ProgrammingError, sql
from psycopg.errors import QueryCanceled, UndefinedColumn, UndefinedTable
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import filters
from embeddings_pipeline.store.connection import Row, columns_of, trusted
from embeddings_pipeline.store.filters import Condition, Predicate
from embeddings_pipeline.store.index.build import better_compared
from embeddings_pipeline.store.search import dense, hybrid, lexical, session
from embeddings_pipeline.store.search.lexical import Words
from embeddings_pipeline.store.search.published import Published
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.wire import encoding_of, stored_id

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

    `filters` has the form that `store.filters.parse` takes. `exclude` is the id of a row to leave
    out.
    """

    rows: int
    vector: Vector | None = None
    query: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    exclude: str | None = None
    exact: bool = False


@dataclass(frozen=True)
class Hit:
    """A row that was found, with its best chunk. `fields` are its filter columns, as plain values
    for JSON.

    A greater `score` is better; docs/search.md explains the score of each mode.
    """

    id: str
    chunk: int
    score: float
    text: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class StoredRow:
    """A published row: its chunks' texts in order, and its filter columns."""

    id: str
    texts: Sequence[str]
    fields: Mapping[str, Any]


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
    filters: tuple[Predicate, ...]


class PublishedSearch:
    """Searches a published set over a connection that `session.prepare` has made ready."""

    def __init__(self, connection: Connection[Row], published: Published) -> None:
        self._tables = EntityTables(connection, published.names)
        self._published = published

    def find(self, query: RowQuery) -> list[Hit]:
        """Return the rows found, best first; fewer than `query.rows` only where no more match.

        Raises PublishedSetChanged where another vector set was published meanwhile, and
        ConfigurationError for a filter that does not fit its column.
        """
        conditions = filters.parse(query.filters, self._published.filters)
        try:
            return self._find(query, conditions)
        except (UndefinedTable, UndefinedColumn):
            raise PublishedSetChanged from None
        except (DataError, ProgrammingError):
            self._refuse_unfit(conditions)
            raise

    def rows(self, ids: Sequence[str]) -> list[StoredRow]:
        """The published rows with these ids, in their order; ids without a row are left out."""
        rows = self._tables.execute(
            "select v.{id}::text, v.text, {fields} from {vectors} v"
            " where v.{id} = any(%s::text[]::{id_type}[]) order by v.{id}, v.chunk",
            ([stored_id(i, encoding_of(self._tables.connection)) for i in ids],),
            fields=hybrid.fields(self._published),
            vectors=self._published.vectors,
        ).fetchall()
        found: dict[str, StoredRow] = {}
        for row_id, text, fields in rows:
            texts = found[row_id].texts if row_id in found else ()
            found[row_id] = StoredRow(row_id, (*texts, text), fields)
        return [found[row_id] for row_id in dict.fromkeys(ids) if row_id in found]

    def vector_of(self, row_id: str) -> Vector | None:
        """The vector of a row, the mean of its chunks' vectors; None where it has none."""
        (mean,) = self._tables.one(
            "select avg(embedding::vector) from {vectors} where {id} = {row_id}::{id_type}",
            vectors=self._published.vectors,
            row_id=Literal(stored_id(row_id, encoding_of(self._tables.connection))),
        )
        return None if mean is None else np.asarray(mean.to_numpy(), dtype=np.float32)

    def with_columns(self, found: Sequence[Hit], columns: Sequence[str]) -> list[Hit]:
        """The rows, with these columns of the staging model added to their fields, as JSON.

        A row that is gone from the model has nulls. Raises ConfigurationError for a column that the
        model lacks.
        """
        entity = self._tables.source.entity
        present = columns_of(self._tables.connection, entity.db_schema, entity.table)
        for column in columns:
            if column not in present:
                raise ConfigurationError(
                    f"column {column!r} is not in {entity.table} (columns: {', '.join(present)})"
                )
        rows = self._tables.execute(
            "select s.{id}::text, (select to_jsonb(f.*) from (select {columns}) as f)"
            " from {staging} as s where s.{id} = any(%s::{id_type}[])",
            ([row.id for row in found],),
            columns=sql.SQL(", ").join(Identifier("s", column) for column in columns),
            staging=Identifier(entity.db_schema, entity.table),
        )
        more: dict[str, dict[str, Any]] = dict(rows.fetchall())
        nothing = dict.fromkeys(columns)
        return [replace(row, fields={**row.fields, **more.get(row.id, nothing)}) for row in found]

    def facets(self, column: str, most: int) -> list[tuple[Any, int]] | None:
        """The values of a filter column as JSON, the most frequent first, with their counts; of
        lists, the values of their elements.

        None where there are more than `most` values, where values cannot be compared, or where the
        query times out.
        """
        values: LiteralString = "select {}"
        if self._published.filters[column].endswith("[]"):
            values = "select distinct e from unnest({}) as e where e is not null"
        try:
            rows = self._tables.execute(
                "select to_jsonb(value), count(*) from {vectors} v cross join lateral ({values}) as"
                " one (value) where v.chunk = 0 group by value order by 2 desc, value"
                " limit {limit}",
                values=sql.SQL(values).format(Identifier("v", column)),
                vectors=self._published.vectors,
                limit=Literal(most + 1),
            ).fetchall()
        except (ProgrammingError, QueryCanceled):
            return None
        return rows if len(rows) <= most else None

    def _find(self, query: RowQuery, conditions: Sequence[Condition]) -> list[Hit]:
        words = None if query.query is None else self._words(query.query)
        passing = self._count_passing(conditions) if conditions else None
        shape = self._first_shape(query, conditions, words, passing)
        while True:
            session.use(self._tables.connection, self._settings(shape))
            values = _parameters(query, conditions)
            if words is not None:
                floor = self._floor(words, shape, values, passing)
                values |= words.values(words.reaching(floor))
            # a generic plan would not know how many texts the words and filters leave
            prepare = None if words is None else False
            statement = search_statement(self._published, shape)
            rows = self._tables.connection.execute(statement, values, prepare=prepare).fetchall()
            version, seen = rows[0][:2]
            if version != self._published.version:
                raise PublishedSetChanged
            found = [Hit(*row[2:]) for row in rows if row[2] is not None]
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

    def _words(self, query: str) -> Words:
        """The words of a query. Raises ConfigurationError where the lexemes have not been counted
        yet."""
        total = self._published.documents
        if total is None:
            name = self._tables.entity
            raise ConfigurationError(
                f"entity {name!r} has no index of its texts yet: run `embeddings-pipeline run"
                f" {name}`"
            )
        if encoding := encoding_of(self._tables.connection):
            # no stored text has the characters that the encoding lacks
            query = query.encode(encoding, "replace").decode(encoding)
        lookup = lexical.lookup(self._published)
        rows = self._tables.connection.execute(lookup, {"query": query}).fetchall()
        return Words.of(rows, total)

    def _count_passing(self, conditions: Sequence[Condition]) -> int:
        """How many chunks the planner expects to pass the filters."""
        (plan,) = self._tables.one(
            "explain (format json) select from {vectors} as v where {where}",
            filters.parameters(conditions),
            vectors=self._published.vectors,
            where=filters.where([condition.predicate for condition in conditions]),
        )
        return int(plan[0]["Plan"]["Plan Rows"])

    def _first_shape(
        self,
        query: RowQuery,
        conditions: Sequence[Condition],
        words: Words | None,
        passing: int | None,
    ) -> StatementShape:
        several = _CHUNKS_PER_ROW if self._tables.source.entity.chunk else 1
        is_dense = query.vector is not None
        total = self._published.vector_set.index_rows or 0
        few = passing is not None and better_compared(passing, total, query.rows)
        return StatementShape(
            rows=query.rows,
            chunks=max(query.rows * several, _MIN_HYBRID_CHUNKS if is_dense and words else 0),
            exact=query.exact or (is_dense and few),
            dense=is_dense,
            words=len(words.words) if words else None,
            exclude=query.exclude is not None,
            filters=tuple(condition.predicate for condition in conditions),
        )

    def _settings(self, shape: StatementShape) -> dict[str, str]:
        if not shape.dense:
            return lexical.SESSION
        return dense.session(self._published.vector_set, shape.chunks, index=not shape.exact)

    def _floor(
        self, words: Words, shape: StatementShape, values: dict[str, Any], passing: int | None
    ) -> float:
        """Return a score that every chunk among the results reaches.

        The search skips texts that cannot reach the score. Returns 0 where reading all matching
        texts is cheaper.
        """
        share = 1.0 if passing is None else min(1.0, max(passing, 1) / max(words.total, 1))
        texts = lexical.MIN_SAMPLE / share
        while texts < sum(words.documents) / _MIN_SAMPLE_GAIN:
            likely = values | words.values(words.likely(texts))
            statement = floor_statement(self._published, shape)
            look = self._tables.connection.execute(statement, likely, prepare=False)
            ((floor,),) = look.fetchall()
            if floor is not None:
                return float(floor)
            # the words occur together less often than by chance
            texts *= _SAMPLE_GROWTH
        return 0

    def _refuse_unfit(self, conditions: Sequence[Condition]) -> None:
        """Raise ConfigurationError with the value that does not fit the type of its column."""
        for condition in conditions:
            column, kind, operator, _ = condition.predicate
            for value in condition.values:
                try:
                    self._tables.connection.execute(
                        sql.SQL("select %(v)s::{kind} {operator} %(v)s::{kind}").format(
                            kind=trusted(kind.removesuffix("[]")),
                            operator=sql.SQL(filters.COMPARED_BY.get(operator, "=")),
                        ),
                        {"v": value},
                    )
                except DataError:
                    raise filters.is_not_a(condition, value) from None
                except ProgrammingError:
                    raise ConfigurationError(
                        f"filter {column!r}: values of type {kind} cannot be compared by {operator}"
                    ) from None


def _parameters(query: RowQuery, conditions: Sequence[Condition]) -> dict[str, Any]:
    values = filters.parameters(conditions)
    if query.vector is not None:
        values["vector"] = PgVector(query.vector)
    if query.exclude is not None:
        values["exclude"] = query.exclude
    return values


# cached, since composing a statement takes a tenth of the time of a search
@lru_cache(maxsize=256)
def search_statement(published: Published, shape: StatementShape) -> bytes:
    """Return the statement of a search, with the columns of `hybrid.statement`."""
    where = _where(published, shape)
    if shape.words is None and published.names.source.entity.chunk is None:
        more = hybrid.whole(published)
        near = dense.near(published, where, shape.chunks, exact=shape.exact, more=more)
        return hybrid.nearest(published, near).as_bytes()
    ways = {}
    if shape.dense:
        ways["dense"] = dense.near(published, where, shape.chunks, exact=shape.exact)
    if shape.words is not None:
        ways["text"] = lexical.matching(published, where, shape.words, shape.chunks)
    return hybrid.statement(published, ways, shape.rows).as_bytes()


@lru_cache(maxsize=256)
def floor_statement(published: Published, shape: StatementShape) -> bytes:
    """Return the statement that reads a sample of the matching texts for `lexical.floor`."""
    where = _where(published, shape)
    return lexical.floor(published, where, shape.words or 0, shape.chunks).as_bytes()


def _where(published: Published, shape: StatementShape) -> sql.Composable:
    where = filters.where(shape.filters)
    if shape.exclude:
        where = published.names.fill("{all} and v.{id} <> %(exclude)s::{id_type}", all=where)
    return where
