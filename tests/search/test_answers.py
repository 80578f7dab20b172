"""What an answer says beside the rows, from the database and from a snapshot alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.query_vectors import query_encoder
from embeddings_pipeline.search.requests import Answer, FacetValue, Rows, SearchRequest, Total
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.sync.snapshot import export
from tests.search.conftest import Search
from tests.support.databases import Templates
from tests.support.world import SCHEMA, World

pytestmark = pytest.mark.long

ITEMS = [
    (1, "red garden hose", "garden", 19.9, ["new", "red"], "Hose", "https://shop.example/1"),
    (2, "red boots", "footwear", 90.0, ["red"], "Boots", None),
    (3, "garden lamps of red glass", "light", None, [], "Lamps", "https://shop.example/3"),
    (4, "blue lamp", "light", 25.5, ["new"], None, None),
    (5, "blue boots for the garden", "footwear", 40.0, None, "Blue boots", None),
]


class Answering(Protocol):
    def search(self, request: SearchRequest) -> Answer: ...

    def rows(self, entity: str, ids: list[str]) -> Rows: ...


@pytest.fixture
def items(world: World, templates: Templates) -> World:
    """The items, published."""
    templates.restore(world, publish_items)
    return world


def publish_items(world: World) -> None:
    world.table(
        "id bigint, text_ text, kind text, price numeric, tags text[], name text, page text"
    )
    world.insert(*ITEMS)
    world.run(
        world.declare(
            template="{text_}", filters=["kind", "price", "tags"], title="name", url="page"
        )
    )


@pytest.fixture(params=["database", "snapshot"])
def answering(
    request: pytest.FixtureRequest, items: World, search: Search, tmp_path: Any
) -> Iterator[Answering]:
    if request.param == "database":
        yield search.searcher
        return
    export(items.postgres, SCHEMA, "item", tmp_path)
    with Snapshot(tmp_path, items.settings, query_encoder(items.encoders)) as snapshot:
        yield snapshot


def ask(answering: Answering, query: str | None = "red garden hose", **more: Any) -> Answer:
    return answering.search(SearchRequest.of(entity="item", query=query, **more))


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.results]


def test_a_hit_has_the_title_and_the_addresses_that_are_declared(answering: Answering) -> None:
    first, *_ = ask(answering, top_k=1).results
    assert (first.title, first.url, first.image_url) == ("Hose", "https://shop.example/1", None)


def test_pages_follow_one_another_without_gaps(answering: Answering) -> None:
    pages = [ids(ask(answering, top_k=2, offset=offset)) for offset in (0, 2, 4)]
    assert [row for page in pages for row in page] == ids(ask(answering, top_k=5))
    last = ask(answering, top_k=2, offset=4)
    assert last.shortfall == 1


def test_a_total_counts_all_that_match_whatever_the_page(answering: Answering) -> None:
    assert ask(answering, top_k=1).total is None
    assert ask(answering, top_k=1, total=True).total == Total(5, exact=True)
    few = ask(answering, top_k=1, total=True, filters={"kind": "light"})
    assert few.total == Total(2, exact=True)


def test_a_total_under_a_threshold_counts_what_reaches_it_or_says_that_there_may_be_more(
    answering: Answering,
) -> None:
    assert ask(answering, total=True, min_similarity=0.99).total == Total(1, exact=True)
    assert ask(answering, top_k=1, total=True, min_similarity=0.0).total == Total(1, exact=False)


def test_facets_count_the_rows_that_pass_the_filters(answering: Answering) -> None:
    answer = ask(
        answering, top_k=1, facets=["kind", "price"], filters={"kind": ["light", "garden"]}
    )
    assert answer.facets is not None
    facets = {
        column: {value.value: value.count for value in values}
        for column, values in answer.facets.items()
    }
    assert facets == {"kind": {"light": 2, "garden": 1}, "price": {19.9: 1, 25.5: 1, None: 1}}
    assert answer.facets["kind"][0].value == "light"


def test_facets_of_lists_count_their_elements(answering: Answering) -> None:
    facets = ask(answering, facets=["tags"]).facets
    assert facets is not None
    assert {value.value: value.count for value in facets["tags"]} == {"new": 2, "red": 2}


@pytest.mark.parametrize("what", [{"facets": ["size"]}, {"sort": {"by": "size"}}])
def test_a_facet_and_an_order_need_a_filter_column(
    answering: Answering, what: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"'size' is not a filter column \(kind, price"):
        ask(answering, **what)


@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ({"by": "price"}, ["1", "4", "5", "2", "3"]),
        ({"by": "price", "order": "desc"}, ["2", "5", "4", "1", "3"]),
        # element by element, and a list before longer ones that begin alike
        ({"by": "tags"}, ["3", "4", "1", "2", "5"]),
        ({"by": "tags", "order": "desc"}, ["2", "1", "4", "3", "5"]),
    ],
)
def test_rows_are_sorted_by_a_column_those_without_a_value_last(
    answering: Answering, sort: dict[str, Any], found: list[str]
) -> None:
    assert ids(ask(answering, sort=sort)) == found
    assert ids(ask(answering, sort=sort, top_k=2, offset=1)) == found[1:3]


def test_an_order_is_of_the_best_rows(answering: Answering) -> None:
    best = ids(ask(answering, top_k=3))
    assert sorted(best) == sorted(ids(ask(answering, sort={"by": "price", "among": 3}, top_k=3)))
    # without `top_k`, a page ends with the rows that are sorted
    assert len(ids(ask(answering, sort={"by": "price", "among": 3}))) == 3
    assert len(ids(ask(answering, sort={"by": "price", "among": 3}, offset=2))) == 1
    with pytest.raises(ConfigurationError, match="together may be 3, the `among` of sort, not 4"):
        ask(answering, sort={"by": "price", "among": 3}, offset=1, top_k=3)


def test_the_last_page_by_the_usual_number_of_rows_ends_with_the_bound(
    answering: Answering,
) -> None:
    assert ask(answering, offset=995).shortfall == 5
    with pytest.raises(ConfigurationError, match="together may be 1000, not 1005"):
        ask(answering, offset=995, top_k=10)


def test_filters_are_joined_by_or_and_not(answering: Answering) -> None:
    either = {"or": [{"kind": "garden"}, {"price": {"gt": 50}}]}
    assert sorted(ids(ask(answering, filters=either))) == ["1", "2"]
    assert sorted(ids(ask(answering, filters={"not": either}))) == ["3", "4", "5"]


def test_a_vector_is_searched_in_place_of_a_query(answering: Answering, items: World) -> None:
    vector = items.encoder.encode_query(["blue lamp"]).vectors[0].tolist()
    answer = ask(answering, None, vector=vector, top_k=1, vectors=True)
    assert ids(answer) == ["4"]
    assert np.allclose(answer.results[0].vector or (), vector, atol=1e-6)
    assert answer.best_similarity == pytest.approx(1)


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ([1.0, 2.0], "vector has 2 numbers, and the vectors of entity 'item' have "),
        ([1e300], "beyond the range of float32"),
        ([0.0], "vector is zero"),
    ],
)
def test_a_vector_that_cannot_be_compared_is_refused(
    answering: Answering, items: World, vector: list[float], says: str
) -> None:
    if len(vector) == 1:
        vector *= items.encoder.identity.dimension
    with pytest.raises(ConfigurationError, match=says):
        ask(answering, None, vector=vector)


def test_rows_come_by_their_ids_in_the_order_that_was_asked(answering: Answering) -> None:
    found = answering.rows("item", ["5", "+1", "99"])
    assert [(row.id, *row.texts, row.title) for row in found.rows] == [
        ("5", "blue boots for the garden", "Blue boots"),
        ("1", "red garden hose", "Hose"),
    ]
    assert found.missing == ["99"]


def test_a_row_of_several_chunks_comes_once_with_all_of_them(world: World, search: Search) -> None:
    text = " ".join(f"word{n} and more." for n in range(40))
    world.table("id bigint, name text")
    world.insert((1, text), (2, "short"))
    world.run(world.declare(template="{name}", chunk={"tokens": 16}))
    (row,) = search.searcher.rows("item", ["1"]).rows
    assert len(row.texts) > 3
    answer = search.answer("word1", total=True)
    assert answer.total == Total(2, exact=True)


def test_an_answer_says_when_no_row_has_a_word_of_the_query(items: World, search: Search) -> None:
    lost = search.answer("zzqxv", mode="hybrid")
    assert lost.words == {"zzqxv": 0}
    assert lost.best_similarity is not None
    assert lost.best_similarity < 0.5
    known = search.answer("the red lamps zzqxv", mode="text")
    assert known.words == {"lamp": 2, "red": 3, "zzqxv": 0}
    assert known.best_similarity is None


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_what_has_a_word_of_the_query_is_counted(items: World, search: Search, mode: str) -> None:
    answer = search.answer("lamps", mode=mode, total=True, facets=["kind"])
    assert answer.total is not None
    assert answer.facets is not None
    assert answer.total == Total(2 if mode == "text" else 5, exact=True)
    lights = {value.value: value.count for value in answer.facets["kind"]}
    assert lights["light"] == 2
    assert (len(lights) == 1) == (mode == "text")


def test_what_has_a_word_is_counted_to_a_bound(items: World, search: Search) -> None:
    answer = search.answer(
        "garden lamps", mode="text", top_k=1, total=True, count_to=2, facets=["kind"]
    )
    assert answer.total == Total(2, exact=False)
    assert answer.facets is not None
    assert sum(value.count for value in answer.facets["kind"]) == 2


def test_a_word_of_many_rows_has_a_total_beyond_the_bound(items: World, search: Search) -> None:
    asked: dict[str, Any] = {"mode": "text", "top_k": 1, "total": True, "count_to": 1}
    assert search.answer("garden", **asked).total == Total(1, exact=False)
    counted = search.answer("garden lamps", **asked, facets=["kind"])
    assert counted.total == Total(1, exact=False)
    assert counted.facets is not None
    assert sum(value.count for value in counted.facets["kind"]) == 1


@pytest.mark.parametrize("shelf", [0, 1], ids=["filter of few rows", "filter of most rows"])
@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_words_and_filters_hold_together_whichever_is_looked_up_first(
    world: World, search: Search, mode: str, shelf: int
) -> None:
    world.table("id bigint, name text, shelf int")
    shelves = {n: int(n % 40 > 0) for n in range(400)}
    pumps = {n for n in shelves if n % 3}
    world.insert(*((n, "pump" if n in pumps else "lamp", shelves[n]) for n in shelves))
    world.run(world.declare(template="{name}", filters=["shelf"]))
    answer = search.answer(
        "pump", mode=mode, top_k=400, filters={"shelf": shelf}, total=True, facets=["shelf"]
    )
    on_shelf = {n for n in shelves if shelves[n] == shelf}
    expected = on_shelf & pumps if mode == "text" else on_shelf
    assert {int(hit.id) for hit in answer.results} == expected
    assert answer.total == Total(len(expected), exact=True)
    assert answer.facets == {"shelf": [FacetValue(shelf, len(expected))]}


def test_highlights_are_the_words_of_the_query_in_every_form(items: World, search: Search) -> None:
    hits = search.answer("lamp GARDENS", mode="dense", highlight=True).results
    marked = {
        hit.id: [hit.text[start:stop] for start, stop in hit.highlights or ()] for hit in hits
    }
    assert marked == {
        "1": ["garden"],
        "2": [],
        "3": ["garden", "lamps"],
        "4": ["lamp"],
        "5": ["garden"],
    }


@pytest.mark.parametrize(
    ("text", "query", "marked"),
    [
        ("<b class=lamp>a \x02lamp\x03 & lamps</b>", "lamp", ["lamp", "lamp", "lamps"]),
        ("😀 e\u0301 lamp", "lamp", ["lamp"]),
        ("see https://shop.example/lamp?x=1 or a red-lamp", "red lamp", ["red", "lamp"]),
        ("lamp's 'lamp' \\lamp", "lamp \\ '", ["lamp", "lamp", "lamp"]),
        ("the lamp", "the", []),
        ("", "lamp", []),
    ],
)
def test_highlights_stand_where_the_words_are(
    world: World, search: Search, text: str, query: str, marked: list[str]
) -> None:
    world.table("id bigint, name text")
    world.insert((1, ". " + text))
    world.run(world.declare(template="{name}"))
    (hit,) = search.answer(query, mode="dense", highlight=True).results
    assert [hit.text[start:stop] for start, stop in hit.highlights or ()] == marked


def test_a_snapshot_has_no_histograms(items: World, tmp_path: Any) -> None:
    export(items.postgres, SCHEMA, "item", tmp_path)
    with (
        Snapshot(tmp_path, items.settings, query_encoder(items.encoders)) as snapshot,
        pytest.raises(ConfigurationError, match="histograms and facet_prefix need the database"),
    ):
        ask(snapshot, histograms=[{"column": "price", "least": 0, "most": 9}])


def test_a_snapshot_has_no_highlights(items: World, tmp_path: Any) -> None:
    export(items.postgres, SCHEMA, "item", tmp_path)
    with (
        Snapshot(tmp_path, items.settings, query_encoder(items.encoders)) as snapshot,
        pytest.raises(ConfigurationError, match="without rerank and highlight"),
    ):
        ask(snapshot, highlight=True)
