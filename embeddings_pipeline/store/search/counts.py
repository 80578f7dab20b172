"""How many rows match a search, and how many of them have each value of a filter column."""

from __future__ import annotations

from functools import lru_cache
from typing import LiteralString, NamedTuple

from psycopg import sql
from psycopg.sql import Identifier, Literal

from embeddings_pipeline.store.filters import Group
from embeddings_pipeline.store.search.published import Published, passing

# values of a facet, the most frequent first
MAX_VALUES = 20


class CountShape(NamedTuple):
    """All that decides the SQL text of a count; the rest are parameters of the statement."""

    by_words: bool
    exclude: bool
    filters: Group
    facets: tuple[str, ...]
    most: int


@lru_cache(maxsize=256)
def statement(published: Published, shape: CountShape) -> bytes:
    """A statement that returns (null, null, number of rows), at most one more than `shape.most`,
    and for the facet number n, among `shape.most` rows, (n, value as JSON, number of rows) of its
    most frequent values. Of lists, the values are the elements."""
    names = published.names
    # both tables have the columns; the rows of texts are read for their words
    table = "t" if shape.by_words else "v"
    columns = [
        sql.SQL(", {} as {}").format(Identifier(table, column), Identifier(f"c{n}"))
        for n, column in enumerate(shape.facets)
    ]
    # the columns of a row are equal in all its chunks
    chunked = names.source.entity.chunk is not None
    distinct = names.fill("distinct on (v.{id})") if chunked else sql.SQL("")
    words: LiteralString = (
        "join {texts} t on t.{id} = v.{id} and t.chunk = v.chunk"
        " and t.lexemes @@ %(match)s::tsquery"
    )
    return names.fill(
        """
        with rows as materialized (
            select {distinct} true as counted {columns} from {vectors} v {words}
            where {where} limit {one_more}
        ),
        counted as (select * from rows limit {most})
        select null::int, null::jsonb, count(*) from rows {facets}
        """,
        distinct=distinct,
        columns=sql.SQL("").join(columns),
        vectors=published.vectors,
        words=names.fill(words) if shape.by_words else sql.SQL(""),
        where=passing(published, shape.filters, exclude=shape.exclude),
        one_more=Literal(shape.most + 1),
        most=Literal(shape.most),
        facets=sql.SQL("").join(
            _facet(n, published.filters[column]) for n, column in enumerate(shape.facets)
        ),
    ).as_bytes()


def _facet(number: int, kind: str) -> sql.Composable:
    values: LiteralString = "select {}"
    if kind.endswith("[]"):
        values = "select distinct e from unnest({}) as e where e is not null"
    return sql.SQL(
        " union all (select {number}, to_jsonb(value), count(*) from counted"
        " cross join lateral ({values}) as one (value)"
        " group by value order by count(*) desc, value limit {most})"
    ).format(
        number=Literal(number),
        values=sql.SQL(values).format(Identifier(f"c{number}")),
        most=Literal(MAX_VALUES),
    )
