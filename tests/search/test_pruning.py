"""A search by words reads only texts that can be among the best, and finds what it would have found
had it read all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from embeddings_pipeline.search.requests import FacetValue, Total
from embeddings_pipeline.store.search import lexical
from tests.search.conftest import Search
from tests.support.world import SCHEMA, World

# from one that most texts say to one that few do
WORDS = ("pump", "hose", "valve", "lamp", "shoe", "tap")
VOCABULARY = [word for n, word in enumerate(WORDS) for _ in range(6 - n)]
SAID = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=14)
QUERIES = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6, unique=True)


@contextmanager
def looking_at(texts: int) -> Iterator[None]:
    """Searches that estimate the score that they need from this number of texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexical, "MIN_LIKELY", texts)
        yield


def scores(search: Search, query: str, **keys: Any) -> dict[str, float]:
    """The score of each row, the best first."""
    return {hit.id: hit.score for hit in search.answer(query, mode="text", **keys).results}


def test_what_is_left_out_is_not_among_the_best(
    world: World, opened: Callable[..., Search]
) -> None:
    world.table("id bigint, name text, shelf int")
    item = world.declare(template="{name}", filters=["shelf"], index={"type": "none"})

    @given(
        texts=st.lists(SAID, min_size=40, max_size=80),
        queries=st.lists(QUERIES, min_size=5, max_size=10),
        top_k=st.integers(1, 6),
    )
    # a few texts are short enough to read, and each try to shorten them takes seconds
    @settings(max_examples=15, phases=[Phase.reuse, Phase.generate])
    def searched(texts: Sequence[list[str]], queries: Sequence[list[str]], top_k: int) -> None:
        world.sql("truncate staging.stg_item")
        world.insert(*((n, " ".join(said), n % 2) for n, said in enumerate(texts)))
        world.run(item, allow_deletes=True)
        search = opened()
        for words in queries:
            for filters in ({}, {"shelf": 1}):
                query = " ".join(words)
                with looking_at(10**9):
                    every = scores(search, query, filters=filters, top_k=100)
                with looking_at(1):
                    best = scores(search, query, filters=filters, top_k=top_k)
                assert [*best.values()] == pytest.approx([*every.values()][:top_k])
                assert best == pytest.approx({row_id: every[row_id] for row_id in best})

    searched()


def test_words_that_are_never_said_together_are_found_all_the_same(
    world: World, search: Search
) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, ("pump", "hose")[n % 2]) for n in range(40)))
    world.run(world.declare(template="{name}"))
    with looking_at(1):
        assert len(search.ids("pump hose", mode="text", top_k=30)) == 30


@pytest.mark.parametrize("chunk", [None, {"tokens": 16, "overlap": 0}], ids=["whole", "in chunks"])
def test_the_same_is_counted_whether_a_search_reads_all_texts_or_the_best(
    world: World, search: Search, chunk: dict[str, int] | None
) -> None:
    world.table("id bigint, name text, shelf int")
    world.insert(*((n, "pump " * (1 + n % 40) + "hose", n % 3) for n in range(60)))
    world.insert(*((60 + n, "lamp", n % 3) for n in range(20)))
    world.run(world.declare(template="{name}", filters=["shelf"], chunk=chunk))
    bars = {"column": "shelf", "least": 0, "most": 3, "bars": 3}

    def counted(**keys: Any) -> object:
        answer = search.answer("pump", mode="text", top_k=1, total=True, **keys)
        return answer.total, answer.facets, answer.histograms

    asked: dict[str, Any] = {"facets": ["shelf"], "histograms": [bars]}
    for keys in (
        {},
        asked,
        {**asked, "filters": {"shelf": [0, 1]}},
        {**asked, "facet_prefix": "1"},
    ):
        with looking_at(10**9):
            every = counted(**keys)
        with looking_at(1):
            assert counted(**keys) == every
    assert every == (
        Total(60, exact=True),
        {"shelf": [FacetValue(1, 20)]},
        {"shelf": [20, 20, 20]},
    )


def test_a_column_as_of_old_is_made_anew(world: World, search: Search) -> None:
    world.table("id bigint, name text")
    world.insert((1, "pump pump pump"), (2, "pump hose hose"))
    item = world.declare(template="{name}")
    world.run(item)
    stored = f"select lexemes::text from {SCHEMA}.item_texts order by id"
    made = world.sql(stored)
    assert made == [
        ("'pump':1,2,3 'pump 65' 'pump 70' 'pump 75' 'pump 80'",),
        ("'hose':2,3 'hose 65' 'hose 70' 'hose 75' 'pump':1",),
    ]
    world.sql(
        f"alter table {SCHEMA}.item_texts drop column lexemes, add column lexemes tsvector"
        " generated always as (to_tsvector('pg_catalog.english'::regconfig, text)) stored"
    )
    world.run(item)
    assert world.sql(stored) == made
    assert search.ids("pump", mode="text") == ["1", "2"]
