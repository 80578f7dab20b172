"""Rows are listed without a search: by their ids or a column, page by page, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from embeddings_pipeline.errors import ConfigurationError, NotFound
from embeddings_pipeline.search.requests import FacetValue, ListRequest, RowList, Total
from tests.search.conftest import Search
from tests.support.world import World

ROWS: tuple[Sequence[Any], ...] = (
    (1, "lamp", 5.5, "Zebra", ["new", "red"]),
    (2, "shoe", None, "apple", []),
    (3, "lamp", float("nan"), "Öl", None),
    (4, "hose", 5.5, None, ["red"]),
    (10, "hose", -3.0, "apple", ["newest"]),
)


@pytest.fixture
def items(world: World) -> World:
    world.table("id bigint, name text, price float8, maker text, tags text[]")
    world.insert(*ROWS)
    world.run(world.declare(template="{name} {id}", filters=["name", "price", "maker", "tags"]))
    return world


def listed(search: Search, **keys: Any) -> RowList:
    return search.searcher.listed(ListRequest.of(entity="item", **keys))


def pages(search: Search, size: int, **keys: Any) -> list[str]:
    """The ids of all pages of this size."""
    found: list[str] = []
    while True:
        after = found[-1] if found else None
        rows = listed(search, top_k=size, after=after, **keys).rows
        if not rows:
            return found
        found += [row.id for row in rows]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (None, ["1", "2", "3", "4", "10"]),
        # NaN is above all numbers, and rows without a value come last
        ({"by": "price"}, ["10", "1", "4", "3", "2"]),
        ({"by": "price", "order": "desc"}, ["3", "1", "4", "10", "2"]),
        # code points, as filters compare them
        ({"by": "maker"}, ["1", "2", "10", "3", "4"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pages_hold_each_row_once_in_order(
    items: World, search: Search, sort: dict[str, str] | None, order: list[str], size: int
) -> None:
    assert pages(search, size, sort=sort) == order


def test_rows_pass_the_filters_and_are_counted(items: World, search: Search) -> None:
    answer = listed(search, filters={"name": ["lamp", "hose"]}, total=True, facets=["name"])
    assert [row.id for row in answer.rows] == ["1", "3", "4", "10"]
    assert answer.rows[0].texts == ("lamp 1",)
    assert answer.total == Total(4, exact=True)
    assert answer.facets == {"name": [FacetValue("hose", 2), FacetValue("lamp", 2)]}
    assert listed(search, top_k=0, total=True).rows == []


def test_a_row_of_several_chunks_is_listed_once(world: World, search: Search) -> None:
    world.table("id text, words text, kind text")
    world.insert(*((f"{n}", "word " * 60, f"kind {n % 2}") for n in range(4)))
    world.run(
        world.declare(template="{words}", filters=["kind"], chunk={"tokens": 16, "overlap": 0})
    )
    assert pages(search, 3) == ["0", "1", "2", "3"]
    assert pages(search, 1, sort={"by": "kind", "order": "desc"}) == ["1", "3", "0", "2"]
    assert listed(search, total=True).total == Total(4, exact=True)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"sort": {"by": "size"}}, ConfigurationError, "'size' is not a filter column"),
        ({"after": "x"}, ConfigurationError, "'x' is not a bigint"),
        ({"after": "99", "sort": {"by": "name"}}, NotFound, "row '99' is gone"),
        ({"filters": {"price": "much"}}, ConfigurationError, "'much' is not a double precision"),
        ({"top_k": 101}, ConfigurationError, "top_k"),
        (
            {"histograms": [{"column": "price", "least": 0, "most": n} for n in (1, 2)]},
            ConfigurationError,
            "a column has one, not two",
        ),
        ({"histograms": [{"column": "name", "least": 0, "most": 1}]}, ConfigurationError, "type"),
        ({"histograms": [{"column": "price", "least": 1, "most": 1}]}, ConfigurationError, "less"),
    ],
)
def test_what_cannot_be_listed_is_said(
    items: World,
    search: Search,
    keys: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        listed(search, **keys)


def test_values_of_a_facet_are_found_by_the_beginning_of_a_word(
    world: World, search: Search
) -> None:
    world.table("id bigint, name text, maker text, tags text[]")
    makers = ("Ada Lovelace", "ada & co", "Canada 100 %", "max_x", None)
    world.insert(*((n, f"thing {n}", maker, [maker]) for n, maker in enumerate(makers)))
    world.run(world.declare(template="{name}", filters=["maker", "tags"]))
    for column in ("maker", "tags"):
        answer = search.answer("thing", facets=[column], facet_prefix="ADA")
        assert {one.value for one in (answer.facets or {})[column]} == {"Ada Lovelace", "ada & co"}
        behind_a_sign = listed(search, facets=[column], facet_prefix="x")
        assert behind_a_sign.facets == {column: [FacetValue("max_x", 1)]}
        percent = listed(search, facets=[column], facet_prefix="100 %")
        assert percent.facets == {column: [FacetValue("Canada 100 %", 1)]}


@pytest.mark.parametrize("mode", ["dense", "text"])
def test_a_histogram_counts_the_rows_that_match_in_each_bar(
    world: World, search: Search, mode: str
) -> None:
    world.table("id bigint, name text, size numeric, sold_on date, at timestamptz")
    day = "2026-01-02"
    world.insert(
        *((n, f"thing {'even' if n % 2 == 0 else 'odd'}", n, day, day) for n in range(10)),
        (10, "thing even", "NaN", "infinity", None),
        (11, "thing even", "1e400", None, "-infinity"),
        (12, "thing even", 1000, None, None),
    )
    world.run(world.declare(template="{name}", filters=["size", "sold_on", "at"]))
    bars = [
        {"column": "size", "least": 0, "most": 10, "bars": 5},
        {"column": "sold_on", "least": 1767225600, "most": 1767398400, "bars": 2},
        {"column": "at", "least": 1767225600, "most": 1767398400, "bars": 2},
    ]
    answer = search.answer("even", mode=mode, histograms=bars, filters={"size": {"gte": 2}})
    per_bar = [0, 1, 1, 1, 2] if mode == "text" else [0, 2, 2, 2, 3]
    rows = sum(per_bar) - 1
    assert answer.histograms == {"size": per_bar, "sold_on": [0, rows], "at": [0, rows]}
