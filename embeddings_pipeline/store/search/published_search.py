"""Searches the published vector set of an entity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, LiteralString

import numpy as np
from pgvector import Vector as PgVector
from psycopg import Connection, DataError, ProgrammingError, sql
from psycopg.errors import QueryCanceled, UndefinedColumn, UndefinedFunction, UndefinedTable
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.entities.model import Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound
from embeddings_pipeline.store import filters
from embeddings_pipeline.store.connection import Row, columns_of, trusted
from embeddings_pipeline.store.filters import Filter, Group, base_type
from embeddings_pipeline.store.index.build import better_compared
from embeddings_pipeline.store.search import (
    counts,
    dense,
    highlights,
    hybrid,
    lexical,
    session,
    spelling,
)
from embeddings_pipeline.store.search.counts import CountShape
from embeddings_pipeline.store.search.lexical import Words
from embeddings_pipeline.store.search.published import Published, passing, version
from embeddings_pipeline.store.tables import EntityTables
from embeddings_pipeline.store.texts.texts import SAMPLED
from embeddings_pipeline.store.wire import encoding_of, stored_id

# chunks searched for each row where rows have several; also the factor of a repeated search
_CHUNKS_PER_ROW = 4
# A word that was in this many times as many texts as are to be counted, when lexemes were counted,
# is still in more than these: lexemes are counted again once a tenth of the texts changed
_ENOUGH = 2
# a text that is found by its filters takes as long as this many that are found by their words,
# because it is looked up by its key
_LOOKUP = 6

# repeatable, so that the bars of a set that did not change stay as they are
_HISTOGRAM: LiteralString = """
    with numbers as (
        select {number} as x from {vectors} v tablesample system ((
            select least(100, 100.0 * {sample} / greatest(reltuples, 1))::real
            from pg_class where oid = {name}::regclass
        )) repeatable (0)
        where v.chunk = 0
    ), finite as (
        select x from numbers where x > '-infinity' and x < 'infinity'
    ), ends as (
        select percentile_disc(array[0.01, 0.99]) within group (order by x) as e from finite
    ), counts as (
        select least(width_bucket(x, e[1], e[2], {bars}), {bars}) as bar, count(*) as n
        from finite, ends where e[1] < e[2] group by 1
    )
    select e[1], e[2], array(
        select coalesce(sum(n) filter (where greatest(c.bar, 1) = b), 0)::bigint
        from generate_series(1, {bars}) as b, counts c group by b order by b
    ) from ends where e[1] < e[2]
"""


class PublishedSetChanged(Exception):
    """The published vector set is no longer the one that was searched."""


@dataclass(frozen=True)
class RowQuery:
    """A search for `rows` rows: near `vector`, containing the words of `query`, or fused from both.

    `filters` has the form that `store.filters.parse` takes. `exclude` is the id of a row to leave
    out. `text_weight`, from 0 to 1, replaces the weight of the words in a fusion. `counts` are
    wanted beside the rows, of at most `count_to` rows that match.
    """

    rows: int
    vector: Vector | None = None
    query: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    exclude: str | None = None
    exact: bool = False
    text_weight: float | None = None
    counts: CountRequest | None = None
    count_to: int = 0


@dataclass(frozen=True)
class Hit:
    """A row that was found, with its best chunk. `fields` are its filter columns, as plain values
    for JSON; `title`, `url` and `image_url` are null where the entity does not declare them.

    A greater `score` is better; docs/search.md explains the score of each mode. `highlights` are
    where words of the query stand in the text, from the first character (a code point, from 0) to
    before the last; `vector` is the chunk's. Both are null unless the request asks for them.
    """

    id: str
    chunk: int
    score: float
    text: str
    fields: Mapping[str, Any]
    title: str | None = None
    url: str | None = None
    image_url: str | None = None
    highlights: Sequence[tuple[int, int]] | None = None
    vector: Sequence[float] | None = None


@dataclass(frozen=True)
class Found:
    """The rows found. `words` are the query's words as lexemes, each with the number of texts that
    have it (counting stops at 1,000 for a rare word); None without a search by words.
    `best_similarity` is the similarity of the nearest vector; None without a search by vector, and
    where there is no vector. `counts` are None unless the search read all rows that match."""

    hits: Sequence[Hit]
    words: Mapping[str, int] | None = None
    best_similarity: float | None = None
    counts: Counts | None = None


@dataclass(frozen=True)
class Suggestion:
    """A `query` with words that texts have in place of those that none has. It is `used` where no
    text has any of the words: rows are found by the words of the suggestion."""

    query: str
    used: bool


@dataclass(frozen=True)
class StoredRow:
    """A published row: its chunks' texts in order, and what a hit has of it."""

    id: str
    texts: Sequence[str]
    fields: Mapping[str, Any]
    title: str | None = None
    url: str | None = None
    image_url: str | None = None


@dataclass(frozen=True)
class Listing:
    """`rows` rows that pass the filters, in the order of a filter column (rows without a value
    last) and then of their ids, from behind the row `after` on."""

    rows: int
    filters: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None
    descending: bool = False
    after: str | None = None


@dataclass(frozen=True)
class Histogram:
    """The numbers of rows in bars of equal width from `least` to `most`, between which lie all but
    the lowest and the highest hundredth of the values; the first and the last bar have these, too.
    Days and times are seconds since 1970."""

    least: float
    most: float
    rows: Sequence[int]


@dataclass(frozen=True)
class Bars:
    """`bars` ranges of equal width from `least` to `most` of a filter column of numbers, days or
    times; the first and the last one have the values beyond, too. Days and times are seconds since
    1970."""

    column: str
    least: float
    most: float
    bars: int


@dataclass(frozen=True)
class CountRequest:
    """What is counted beside the rows: the values of filter columns, with `facet_prefix` only those
    with a word that begins like this, in any case; and the rows in ranges of other columns."""

    facets: tuple[str, ...] = ()
    facet_prefix: str | None = None
    histograms: tuple[Bars, ...] = ()


@dataclass(frozen=True)
class Counts:
    """How many rows match, of each facet the most frequent values (as JSON) with their counts, and
    the number of rows in each bar of a histogram, by column. Where the count is not `exact`, there
    are more rows, and so of each value."""

    rows: int
    exact: bool
    facets: Mapping[str, Sequence[tuple[Any, int]]]
    histograms: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class StatementShape:
    """All that decides the SQL text of a search; the rest are parameters of the statement."""

    rows: int
    chunks: int
    exact: bool
    dense: bool
    # number of words of the query; None without a text search
    words: int | None
    # most texts that are ranked by their words
    read: int | None
    exclude: bool
    filters: Group
    # whether texts are found by their words and then filtered, not the other way round
    filters_texts: bool = False
    # what is counted among the texts that are read
    counted: CountShape | None = None


class PublishedSearch:
    """Searches a published set over a connection that `session.prepare` has made ready."""

    def __init__(self, connection: Connection[Row], published: Published) -> None:
        self._tables = EntityTables(connection, published.names)
        self._published = published
        self._known_words: dict[str, Words] = {}
        self._known_passing: dict[Filter, int] = {}

    def find(self, query: RowQuery) -> Found:
        """Return the rows found, best first; fewer than `query.rows` only where no more match.

        Raises PublishedSetChanged where another vector set was published meanwhile, and
        ConfigurationError for a filter that does not fit its column.
        """
        chosen = filters.parse(query.filters, self._published.filters)
        if query.counts:
            self._require_countable(query.counts)
        with self._refusing_unfit(chosen):
            return self._find(query, chosen)

    def count(self, query: RowQuery, wanted: CountRequest, most: int) -> Counts:
        """Count the rows that pass the filters and, in a search by words alone, have a word of the
        query: at most `most`.

        Raises as `find` does, and ConfigurationError for a facet that is not a filter column and a
        histogram of a column that has none.
        """
        self._require_countable(wanted)
        chosen = filters.parse(query.filters, self._published.filters)
        with self._refusing_unfit(chosen):
            return self._count(query, chosen, wanted, most)

    def _require_countable(self, wanted: CountRequest) -> None:
        for column in wanted.facets:
            filters.type_of(column, self._published.filters, "facet")
        for bars in wanted.histograms:
            kind = filters.type_of(bars.column, self._published.filters, "histogram")
            if kind not in counts.NUMBERS and kind not in counts.TIMES:
                raise ConfigurationError(
                    f"histogram {bars.column!r} is of type {kind}: numbers, days and times have one"
                )

    def suggestion(self, query: str) -> Suggestion | None:
        """The query with words that texts have in place of those that none has; None where each
        word is in a text, or none is near. Raises as `find` does."""
        texts = self._words(query).texts
        absent = [word for word, count in texts.items() if count == 0]
        if not absent:
            return None
        session.use(self._tables.connection, lexical.SESSION)
        better = spelling.suggestion(self._tables, self._encodable(query), absent)
        return None if better is None else Suggestion(better, used=len(absent) == len(texts))

    def words(self, query: str) -> Mapping[str, int]:
        """The query's words as lexemes, each with the number of texts that have it."""
        return self._words(query).texts

    def sorted(self, found: Sequence[Hit], column: str, *, descending: bool) -> list[Hit]:
        """The rows in the order of a filter column, nulls last; equal values keep their order.

        Raises ConfigurationError for a column that is not a filter or has no order, and
        PublishedSetChanged as `find` does.
        """
        with self._refusing_unordered(column):
            rows = self._tables.execute(
                "select {id}::text, dense_rank() over (order by {value} {direction} nulls last)"
                " from {vectors} v where {id} = any(%s::text[]::{id_type}[])",
                ([hit.id for hit in found],),
                value=self._comparable(column),
                direction=sql.SQL("desc" if descending else "asc"),
                vectors=self._published.vectors,
            ).fetchall()
        ranks: dict[str, int] = dict(rows)
        # a row that was deleted meanwhile comes last
        return sorted(found, key=lambda hit: ranks.get(hit.id, len(rows) + 1))

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of these ids that published rows have."""
        rows = self._tables.execute(
            "select distinct v.{id}::text from {vectors} v"
            " where v.{id} = any(%s::text[]::{id_type}[])",
            ([stored_id(i, encoding_of(self._tables.connection)) for i in ids],),
            vectors=self._published.vectors,
        ).fetchall()
        return {row_id for (row_id,) in rows}

    def rows(self, ids: Sequence[str]) -> list[StoredRow]:
        """The published rows with these ids, in their order; ids without a row are left out."""
        rows = self._tables.execute(
            "select v.{id}::text, v.text, {fields}, {shown} from {vectors} v"
            " where v.{id} = any(%s::text[]::{id_type}[]) order by v.{id}, v.chunk",
            ([stored_id(i, encoding_of(self._tables.connection)) for i in ids],),
            fields=hybrid.fields(self._published),
            shown=hybrid.shown(self._published),
            vectors=self._published.vectors,
        ).fetchall()
        found: dict[str, StoredRow] = {}
        for row_id, text, fields, shown in rows:
            texts = found[row_id].texts if row_id in found else ()
            found[row_id] = StoredRow(row_id, (*texts, text), fields, *shown)
        return [found[row_id] for row_id in dict.fromkeys(ids) if row_id in found]

    def listed(self, wanted: Listing) -> list[StoredRow]:
        """Published rows in order, each with its first text.

        Raises as `find` does, NotFound where the row `after` is gone, and ConfigurationError for a
        column that is not a filter or has no order.
        """
        chosen = filters.parse(wanted.filters, self._published.filters)
        session.use(self._tables.connection, {"enable_seqscan": "on"})
        with self._refusing_unfit(chosen), self._refusing_unordered(wanted.by):
            (present,) = self._tables.one(
                "select {version}", version=version(self._tables.schema, self._tables.entity)
            )
            if present != self._published.version:
                raise PublishedSetChanged
            direction = sql.SQL("desc" if wanted.descending else "asc")
            value = sql.SQL("null") if wanted.by is None else self._comparable(wanted.by)
            beyond, values = self._beyond(wanted, value)
            rows = self._tables.execute(
                """
                select v.{id}::text, v.text, {fields}, {shown} from (
                    select {distinct} v.{id} as key, {value} as value from {vectors} v
                    where {where} and {beyond}
                    order by value {direction} nulls last, key limit {rows}
                ) as p cross join lateral (
                    select * from {vectors} v where v.{id} = p.key order by v.chunk limit 1
                ) as v order by p.value {direction} nulls last, p.key
                """,
                chosen.parameters() | values,
                # the columns of a row are equal in all its chunks
                distinct=sql.SQL("distinct" if self._tables.source.entity.chunk else ""),
                value=value,
                direction=direction,
                where=filters.where(chosen.predicates),
                beyond=beyond,
                rows=Literal(wanted.rows),
                fields=hybrid.fields(self._published),
                shown=hybrid.shown(self._published),
                vectors=self._published.vectors,
            ).fetchall()
        return [StoredRow(row_id, (text,), fields, *shown) for row_id, text, fields, shown in rows]

    def _comparable(self, column: str) -> sql.Composable:
        """A filter column of the vectors `v`, as rows are ordered by it. Raises ConfigurationError
        for a column that is not a filter."""
        kind = filters.type_of(column, self._published.filters, "sort:")
        texts = kind.removesuffix("[]") in filters.TEXTS
        collate: LiteralString = ' collate "C"' if texts else ""
        return sql.SQL("{}" + collate).format(Identifier("v", column))

    @contextmanager
    def _refusing_unordered(self, column: str | None) -> Iterator[None]:
        try:
            yield
        except UndefinedColumn:
            raise PublishedSetChanged from None
        except UndefinedFunction:
            if column is None:
                raise
            raise ConfigurationError(
                f"sort: values of type {self._published.filters[column]}, as {column!r} has, have"
                " no order"
            ) from None

    def _beyond(
        self, wanted: Listing, value: sql.Composable
    ) -> tuple[sql.Composable, dict[str, Any]]:
        """The condition on the vectors `v` that they come after the row `after`, and its
        parameters."""
        if wanted.after is None:
            return sql.SQL("true"), {}
        values = {"after": stored_id(wanted.after, encoding_of(self._tables.connection))}
        later = self._tables.fill("v.{id} > %(after)s::{id_type}")
        if wanted.by is None:
            return later, values
        row = self._tables.execute(
            "select {value}::text from {vectors} v where v.{id} = %(after)s::{id_type} limit 1",
            values,
            value=value,
            vectors=self._published.vectors,
        ).fetchone()
        if row is None:
            raise NotFound(
                f"entity {self._tables.entity!r}: row {wanted.after!r} is gone: list from the start"
            )
        if row[0] is None:
            return sql.SQL("{} is null and {}").format(value, later), values
        beyond = sql.SQL(
            "({value} {beyond} {at} or {value} is null or ({value} = {at} and {later}))"
        ).format(
            value=value,
            beyond=sql.SQL("<" if wanted.descending else ">"),
            at=sql.SQL("%(at)s::{}").format(trusted(base_type(self._published.filters[wanted.by]))),
            later=later,
        )
        return beyond, values | {"at": row[0]}

    def sample(self, count: int) -> list[StoredRow]:
        """At most this many published rows, in a random order that stays the same."""
        sampled = self._tables.execute(
            "select {id}::text from ({sampled} limit {count}) as s",
            sampled=self._tables.fill(SAMPLED),
            count=Literal(count),
        ).fetchall()
        return self.rows(list(dict.fromkeys(row_id for (row_id,) in sampled)))

    def with_vectors(self, found: Sequence[Hit]) -> list[Hit]:
        """The hits with the vectors of their chunks; None for a chunk that is gone meanwhile."""
        rows = self._tables.execute(
            "select v.{id}::text, v.chunk, v.embedding::vector from {vectors} v"
            " join unnest(%s::text[], %s::int[]) as f (id, chunk)"
            " on v.{id} = f.id::{id_type} and v.chunk = f.chunk",
            ([hit.id for hit in found], [hit.chunk for hit in found]),
            vectors=self._published.vectors,
        )
        vectors = {(row_id, chunk): vector.to_list() for row_id, chunk, vector in rows}
        return [replace(hit, vector=vectors.get((hit.id, hit.chunk))) for hit in found]

    def with_highlights(self, found: Sequence[Hit], query: str) -> list[Hit]:
        """The hits with the places of the query's words in their texts."""
        texts = [hit.text for hit in found]
        places = highlights.places(self._tables, self._encodable(query), texts)
        marked = zip(found, places, strict=True)
        return [replace(hit, highlights=places) for hit, places in marked]

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
            with self._tables.connection.transaction():
                rows = self._tables.execute(
                    "select to_jsonb(value), count(*) from {vectors} v"
                    " cross join lateral ({values}) as one (value) where v.chunk = 0"
                    " group by value order by 2 desc, value limit {limit}",
                    values=sql.SQL(values).format(Identifier("v", column)),
                    vectors=self._published.vectors,
                    limit=Literal(most + 1),
                ).fetchall()
        except (ProgrammingError, QueryCanceled):
            return None
        return rows if len(rows) <= most else None

    def histogram(self, column: str, bars: int, sample: int) -> Histogram | None:
        """How the rows spread over a filter column of numbers, days or times; in a set of more than
        `sample` chunks, those of about as many in random blocks.

        None for other types, where fewer than two values are finite, or where the query times out.
        """
        kind = base_type(self._published.filters[column])
        if kind not in counts.NUMBERS and kind not in counts.TIMES:
            return None
        try:
            with self._tables.connection.transaction():
                row = self._tables.execute(
                    _HISTOGRAM,
                    number=counts.number_of(Identifier("v", column), kind),
                    vectors=self._published.vectors,
                    name=Literal(self._published.vectors.as_string()),
                    sample=Literal(sample),
                    bars=Literal(bars),
                ).fetchone()
        except (DataError, QueryCanceled):
            return None
        return Histogram(*row) if row else None

    @contextmanager
    def _refusing_unfit(self, chosen: Filter) -> Iterator[None]:
        try:
            yield
        except (UndefinedTable, UndefinedColumn):
            raise PublishedSetChanged from None
        except (DataError, ProgrammingError):
            self._refuse_unfit(chosen)
            raise

    def _count(self, query: RowQuery, chosen: Filter, wanted: CountRequest, most: int) -> Counts:
        by_words = query.query is not None and query.vector is None
        session.use(
            self._tables.connection, lexical.SESSION if by_words else {"enable_seqscan": "on"}
        )
        shape = _count_shape(query, chosen, wanted, most)
        values = _parameters(query, chosen) | _count_parameters(wanted)
        if not by_words:
            return self._counted(shape, wanted, values)
        words = self._words(query.query or "")
        shape = shape._replace(filters_texts=_filters_texts(words, self._expect_passing(chosen)))
        if not chosen and (word := words.found_in(_ENOUGH * most)):
            if not (wanted.facets or wanted.histograms or self._tables.source.entity.chunk):
                return Counts(most, exact=False, facets={})
            found = self._counted(shape, wanted, values | {"match": word})
            if not found.exact:
                return found
        return self._counted(shape, wanted, values | {"match": words.reaching(0)})

    def _counted(self, shape: CountShape, wanted: CountRequest, values: dict[str, Any]) -> Counts:
        statement = counts.statement(self._published, shape)
        prepare = _prepares(shape.filters)
        rows = self._tables.connection.execute(statement, values, prepare=prepare).fetchall()
        return _counts_of(rows, shape.most, wanted)

    def _find(self, query: RowQuery, chosen: Filter) -> Found:
        words = None if query.query is None else self._words(query.query)
        expected = self._expect_passing(chosen)
        shape = self._first_shape(query, chosen, words, expected)
        values = _parameters(query, chosen)
        if words and query.vector is not None:
            values |= self._fusion_parameters(query, query.vector)
        if query.counts:
            values |= _count_parameters(query.counts)
        while True:
            session.use(self._tables.connection, self._settings(shape, expected))
            rows = (
                self._execute(shape, values)
                if words is None
                else self._by_words(words, shape, values, expected)
            )
            _, seen, similarity, _, _, counted = rows[0][:6]
            hits = [Hit(*row[6:11], *row[11]) for row in rows if row[6] is not None]
            found = Found(hits, words.texts if words else None, similarity)
            if query.counts and counted is not None:
                found = replace(found, counts=_counts_of(counted, query.count_to, query.counts))
            if len(hits) >= query.rows:
                return found
            if max(seen or [len(hits)]) >= shape.chunks:
                # several chunks belonged to one row
                shape = replace(shape, chunks=shape.chunks * _CHUNKS_PER_ROW)
            elif shape.exact or not shape.dense:
                return found
            else:
                # an index scan stops at a limit, so more rows may match
                shape = replace(shape, exact=True)

    def _execute(
        self, shape: StatementShape, values: dict[str, Any], prepare: bool | None = None
    ) -> list[Row]:
        """Return the rows of `hybrid.statement`. Raises PublishedSetChanged."""
        statement = search_statement(self._published, shape)
        rows = self._tables.connection.execute(statement, values, prepare=prepare).fetchall()
        if rows[0][0] != self._published.version:
            raise PublishedSetChanged
        return rows

    def _by_words(
        self, words: Words, shape: StatementShape, values: dict[str, Any], passing: int | None
    ) -> list[Row]:
        filters_texts = _filters_texts(words, passing)
        every = words.reaching(0)

        def execute(match: str, read: int | None) -> list[Row]:
            reads_all = read is None and match == every
            ranked = replace(
                shape,
                read=read,
                filters_texts=filters_texts,
                counted=shape.counted if reads_all else None,
            )
            prepare = _prepares(shape.filters)
            return self._execute(ranked, values | words.values(match), prepare=prepare)

        share = 1.0 if passing is None else min(1.0, max(passing, 1) / max(words.total, 1))
        return lexical.best(words, shape.chunks, share, execute)

    def _words(self, query: str) -> Words:
        """The words of a query, looked up once. Raises ConfigurationError where the lexemes have
        not been counted yet."""
        if query not in self._known_words:
            self._known_words[query] = self._look_up(query)
        return self._known_words[query]

    def _look_up(self, query: str) -> Words:
        total = self._published.documents
        if total is None:
            name = self._tables.entity
            raise ConfigurationError(
                f"entity {name!r} has no index of its texts yet: run `embeddings-pipeline run"
                f" {name}`"
            )
        lookup = lexical.lookup(self._published)
        values = {"query": self._encodable(query)}
        rows = self._tables.connection.execute(lookup, values).fetchall()
        return Words.of(rows, total, self._published.average_tokens)

    def _encodable(self, query: str) -> str:
        """The query without the characters that the database's encoding lacks: no text has them."""
        encoding = encoding_of(self._tables.connection)
        return query.encode(encoding, "replace").decode(encoding) if encoding else query

    def _expect_passing(self, chosen: Filter) -> int | None:
        """How many chunks the planner expects to pass the filters; None without filters."""
        if chosen and chosen not in self._known_passing:
            (plan,) = self._tables.one(
                "explain (format json) select from {vectors} as v where {where}",
                chosen.parameters(),
                vectors=self._published.vectors,
                where=filters.where(chosen.predicates),
            )
            self._known_passing[chosen] = int(plan[0]["Plan"]["Plan Rows"])
        return self._known_passing.get(chosen)

    def _first_shape(
        self,
        query: RowQuery,
        chosen: Filter,
        words: Words | None,
        passing: int | None,
    ) -> StatementShape:
        several = _CHUNKS_PER_ROW if self._tables.source.entity.chunk else 1
        is_dense = query.vector is not None
        chunks = query.rows * several
        if is_dense and words:
            chunks = hybrid.BLOCK * math.ceil(chunks / hybrid.BLOCK)
        total = self._published.vector_set.index_rows or 0
        few = passing is not None and better_compared(passing, total, chunks)
        exact = query.exact or (is_dense and (few or self._effort(passing) is None))
        return StatementShape(
            rows=query.rows,
            chunks=chunks,
            exact=exact,
            dense=is_dense,
            words=len(words.words) if words else None,
            read=None,
            exclude=query.exclude is not None,
            filters=chosen.predicates,
            counted=(
                _count_shape(query, chosen, query.counts, query.count_to)
                if query.counts and words and not is_dense
                else None
            ),
        )

    def _settings(self, shape: StatementShape, passing: int | None) -> dict[str, str]:
        if not shape.dense:
            return lexical.SESSION
        effort = None if shape.exact else self._effort(passing)
        return dense.session(self._published.vector_set, shape.chunks, effort)

    def _effort(self, passing: int | None) -> int | None:
        """The effort of a search in which this many chunks pass the filters."""
        vector_set = self._published.vector_set
        share = 1.0 if passing is None else passing / max(vector_set.index_rows or 0, 1)
        return vector_set.effort(share)

    def _fusion_parameters(self, query: RowQuery, vector: Vector) -> dict[str, float]:
        vector_set = self._published.vector_set
        weights = (query.text_weight, vector_set.text_weight, hybrid.TEXT_WEIGHT)
        return {
            "text_weight": next(weight for weight in weights if weight is not None),
            "itself": hybrid.score_with_itself(vector_set.metric, vector),
        }

    def _refuse_unfit(self, chosen: Filter) -> None:
        """Raise ConfigurationError with the value that does not fit the type of its column."""
        for condition in chosen.conditions():
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


def _prepares(predicates: Group) -> bool | None:
    """Whether psycopg prepares a statement of words after some calls. A generic plan would not know
    how many rows the filters leave; without filters the texts are always found by their words."""
    return False if predicates.members else None


def _filters_texts(words: Words, passing: int | None) -> bool:
    """Whether it is faster to find the texts by their words, and to filter them, than to find the
    rows that pass the filters."""
    return passing is not None and passing * _LOOKUP > sum(words.documents)


def _count_shape(query: RowQuery, chosen: Filter, wanted: CountRequest, most: int) -> CountShape:
    return CountShape(
        by_words=query.query is not None and query.vector is None,
        filters_texts=False,
        exclude=query.exclude is not None,
        filters=chosen.predicates,
        facets=wanted.facets,
        by_prefix=wanted.facet_prefix is not None,
        histograms=tuple((bars.column, bars.bars) for bars in wanted.histograms),
        most=most,
    )


def _count_parameters(wanted: CountRequest) -> dict[str, Any]:
    values: dict[str, Any] = {"prefix": wanted.facet_prefix}
    for n, bars in enumerate(wanted.histograms):
        values |= {f"least_{n}": bars.least, f"most_{n}": bars.most}
    return values


def _counts_of(rows: Sequence[Sequence[Any]], most: int, wanted: CountRequest) -> Counts:
    """The counts in the rows of `counts.statement`."""
    total = next(n for facet, _, n in rows if facet is None)
    by_value: dict[str, list[tuple[Any, int]]] = {column: [] for column in wanted.facets}
    by_bar = {bars.column: [0] * bars.bars for bars in wanted.histograms}
    for facet, value, n in rows:
        if facet is None:
            continue
        if facet < len(wanted.facets):
            by_value[wanted.facets[facet]].append((value, n))
        else:
            by_bar[wanted.histograms[facet - len(wanted.facets)].column][value - 1] = n
    return Counts(min(total, most), total <= most, by_value, by_bar)


def _parameters(query: RowQuery, chosen: Filter) -> dict[str, Any]:
    values = chosen.parameters()
    if query.vector is not None:
        values["vector"] = PgVector(query.vector)
    if query.exclude is not None:
        values["exclude"] = query.exclude
    return values


# cached, since composing a statement takes a tenth of the time of a search
@lru_cache(maxsize=256)
def search_statement(published: Published, shape: StatementShape) -> bytes:
    """Return the statement of a search, with the columns of `hybrid.statement`."""
    where = passing(published, shape.filters, exclude=shape.exclude)
    if shape.words is None and published.names.source.entity.chunk is None:
        more = hybrid.whole(published)
        near = dense.near(published, where, shape.chunks, exact=shape.exact, more=more)
        return hybrid.nearest(published, near).as_bytes()
    ways = {}
    before: dict[str, sql.Composable] = {}
    counted = hybrid.NULL
    if shape.dense:
        ways["dense"] = dense.near(published, where, shape.chunks, exact=shape.exact)
    if shape.words is not None:
        where = passing(
            published, shape.filters, exclude=shape.exclude, of_texts=shape.filters_texts
        )
        columns = shape.counted.columns if shape.counted else ()
        scored = lexical.scored(published, where, shape.words, of=shape.read, counted=columns)
        matches: sql.Composable = sql.SQL("({})").format(scored)
        if shape.counted:
            before["scored"], matches = scored, Identifier("scored")
            counted = counts.among(published, shape.counted, "scored")
        ways["text"] = lexical.ranked(published, matches, shape.chunks)
    return hybrid.statement(published, ways, shape.rows, before=before, counted=counted).as_bytes()
