"""How many rows match a search, and how many of them have each value of a filter column, or a value
in each of some ranges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import LiteralString, NamedTuple

from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.filters import Group, base_type
from embeddings_pipeline.store.search.published import Published, passing

# values of a facet, the most frequent first
MAX_VALUES = 20
# types of columns that have histograms
NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
TIMES = ("date", "timestamp with time zone", "timestamp without time zone")


class CountShape(NamedTuple):
    """All that decides the SQL text of a count; the rest are parameters of the statement."""

    by_words: bool
    # as in `StatementShape`
    filters_texts: bool
    exclude: bool
    filters: Group
    facets: tuple[str, ...]
    # whether facets have only the values with a word that begins like the parameter `prefix`
    by_prefix: bool
    # columns and their number of bars, between the parameters `least_0`, `most_0` …
    histograms: tuple[tuple[str, int], ...]
    most: int

    @property
    def columns(self) -> list[str]:
        """The columns that are counted."""
        return [*self.facets, *(column for column, _ in self.histograms)]


@lru_cache(maxsize=256)
def statement(published: Published, shape: CountShape) -> bytes:
    """A statement that returns (null, null, number of rows), at most one more than `shape.most`,
    and for the facet number n, among `shape.most` rows, (n, value as JSON, number of rows) of its
    most frequent values. Of lists, the values are the elements. After the facets come the
    histograms in the same form, with the number of the bar, from 1, as the value."""
    names = published.names
    words: LiteralString = (
        "join {texts} t on t.{id} = v.{id} and t.chunk = v.chunk"
        " and t.lexemes @@ %(match)s::tsquery"
    )
    rows = names.fill(
        "select {distinct} true as counted {columns} from {vectors} v {words} where {where}",
        distinct=_distinct(published),
        # both tables have the columns; the rows of texts are read for their words
        columns=columns("t" if shape.by_words else "v", shape.columns),
        vectors=published.vectors,
        words=names.fill(words) if shape.by_words else sql.SQL(""),
        where=passing(
            published, shape.filters, exclude=shape.exclude, of_texts=shape.filters_texts
        ),
    )
    return _counts(published, shape, rows).as_bytes()


def among(published: Published, shape: CountShape, found: LiteralString) -> sql.Composable:
    """An expression for the rows of `statement` as JSON. The query `found` has all rows that match,
    with the `columns` of the shape."""
    rows = sql.SQL("select {} true as counted {} from {} as v").format(
        _distinct(published), columns("v", names_of(shape.columns)), Identifier(found)
    )
    return sql.SQL(
        "(select jsonb_agg(jsonb_build_array(number, value, n)) from ({}) as c (number, value, n))"
    ).format(_counts(published, shape, rows))


def columns(table: LiteralString, wanted: Sequence[str]) -> sql.Composable:
    """These columns of a table, for a select list that goes on, under the names of `names_of`."""
    named = zip(wanted, names_of(wanted), strict=True)
    return sql.SQL("").join(
        sql.SQL(", {} as {}").format(Identifier(table, column), Identifier(name))
        for column, name in named
    )


def names_of(wanted: Sequence[str]) -> list[str]:
    """A name for each of these columns that differs from all others in a statement."""
    return [_name(n) for n in range(len(wanted))]


def _name(number: int) -> str:
    return f"counted_{number}"


def _distinct(published: Published) -> sql.Composable:
    # the columns of a row are equal in all its chunks
    chunked = published.names.source.entity.chunk is not None
    return published.names.fill("distinct on (v.{id})") if chunked else sql.SQL("")


def _counts(published: Published, shape: CountShape, rows: sql.Composable) -> sql.Composed:
    return sql.SQL(
        """
        with rows as materialized ({rows} limit {one_more}),
        counted as (select * from rows limit {most})
        select null::int, null::jsonb, count(*) from rows {facets}
        """
    ).format(
        rows=rows,
        one_more=Literal(shape.most + 1),
        most=Literal(shape.most),
        facets=sql.SQL("").join(
            [
                *(
                    _facet(n, published.filters[column], by_prefix=shape.by_prefix)
                    for n, column in enumerate(shape.facets)
                ),
                *(
                    _histogram(len(shape.facets) + n, n, published.filters[column], bars)
                    for n, (column, bars) in enumerate(shape.histograms)
                ),
            ]
        ),
    )


def _facet(number: int, kind: str, *, by_prefix: bool) -> sql.Composable:
    values: LiteralString = "select {}"
    if kind.endswith("[]"):
        values = "select distinct e from unnest({}) as e where e is not null"
    # a word begins behind these signs, too; `position` takes a % for itself
    begins: LiteralString = """
        where position(' ' || translate(lower(%(prefix)s), '_-/.:,', '      ')
            in ' ' || translate(lower(value::text), '_-/.:,', '      ')) > 0
    """
    return sql.SQL(
        " union all (select {number}, to_jsonb(value), count(*) from counted"
        " cross join lateral ({values}) as one (value) {begins}"
        " group by value order by count(*) desc, value limit {most})"
    ).format(
        number=Literal(number),
        values=sql.SQL(values).format(Identifier(_name(number))),
        begins=sql.SQL(begins if by_prefix else ""),
        most=Literal(MAX_VALUES),
    )


def _histogram(number: int, place: int, kind: str, bars: int) -> sql.Composable:
    return sql.SQL(
        " union all (select {number}, to_jsonb(bar), count(*) from counted cross join lateral ("
        "select greatest(1, least({bars}, width_bucket({value}, {least}, {most}, {bars}))) as bar"
        ") as one where {value} > '-infinity' and {value} < 'infinity' group by bar)"
    ).format(
        number=Literal(number),
        bars=Literal(bars),
        value=number_of(Identifier(_name(number)), base_type(kind)),
        least=sql.SQL("{}::float8").format(sql.Placeholder(f"least_{place}")),
        most=sql.SQL("{}::float8").format(sql.Placeholder(f"most_{place}")),
    )


def number_of(column: sql.Composable, kind: str) -> sql.Composable:
    """A column of `NUMBERS` or `TIMES` as a float; of a day or a time the seconds since 1970."""
    if kind in TIMES:
        return sql.SQL("extract(epoch from {})::float8").format(column)
    if kind == "numeric":
        # a float has no greater number
        return sql.SQL("case when abs({0}) < 1e308 then {0}::float8 end").format(column)
    return sql.SQL("{}::float8").format(column)
