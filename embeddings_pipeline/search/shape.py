"""The statements of a search, composed once for all searches of the same shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from psycopg import sql

from embeddings_pipeline.store import fusion, search_dense, search_filters, search_text
from embeddings_pipeline.store.published import Published
from embeddings_pipeline.store.search_filters import Forms


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
    """A whole search: its rows are those of `fusion.statement`."""
    where = _where(published, shape)
    if shape.words is None and published.on.source.entity.chunk is None:
        more = fusion.whole(published)
        near = search_dense.near(published, where, shape.chunks, exact=shape.exact, more=more)
        return fusion.nearest(published, near).as_bytes()
    ways = {}
    if shape.dense:
        ways["dense"] = search_dense.near(published, where, shape.chunks, exact=shape.exact)
    if shape.words is not None:
        ways["text"] = search_text.matching(published, where, shape.words, shape.chunks)
    return fusion.statement(published, ways, shape.rows).as_bytes()


@lru_cache(maxsize=256)
def look_statement(published: Published, shape: Shape) -> bytes:
    """A look at some of the texts that match: its one value is that of `search_text.floor`."""
    where = _where(published, shape)
    return search_text.floor(published, where, shape.words or 0, shape.chunks).as_bytes()


def _where(published: Published, shape: Shape) -> sql.Composable:
    where = search_filters.clause(shape.filters, published.filters)
    if shape.without:
        where = published.on.fill("{all} and v.{id} <> %(without)s::{id_type}", all=where)
    return where
