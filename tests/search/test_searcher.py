"""Searches of one entity: results, filters and thresholds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import Mode
from tests.search.conftest import Search
from tests.support.shop import declared, shop
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

__all__ = ["shop"]

NAUGHTY = Path(__file__).parent.parent / "data" / "blns.txt"
MODES: tuple[Mode, ...] = ("dense", "text", "hybrid")


@pytest.mark.parametrize("mode", MODES)
def test_the_row_that_says_what_is_asked_is_first(shop: World, search: Search, mode: Mode) -> None:
    answer = search.answer("blue lamp", mode=mode, top_k=3)
    best = answer.results[0]
    assert (best.id, best.chunk, best.text) == ("3", 0, "blue lamp")
    assert best.fields == {"kind": "lamp", "price": 25, "is_active": False}
    scores = [hit.score for hit in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert (answer.entity, answer.mode, answer.model) == ("item", mode, "fake/words")
    assert (answer.vector_set, answer.coverage, answer.data_lag_seconds) == (1, 100, 0)


def test_a_shortfall_says_how_many_rows_are_missing(shop: World, search: Search) -> None:
    assert search.answer("shoe", top_k=5).shortfall == 0
    assert search.answer("shoe", top_k=9).shortfall == 4
    assert search.answer("shoe", mode="text", top_k=9).shortfall == 7
    assert search.answer("the", mode="text", top_k=3).results == []


def test_the_usual_number_of_rows_is_a_setting(shop: World, opened: Callable[..., Search]) -> None:
    assert len(opened(embedding_similarity_top_k=2).ids("shoe")) == 2


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"kind": "lamp"}, {"3", "4"}),
        ({"kind": ["lamp", "shoe"]}, {"1", "2", "3", "4"}),
        ({"kind": ["lamp", None]}, {"3", "4", "5"}),
        ({"kind": None}, {"5"}),
        ({"price": {"gte": 40, "lt": 300}}, {"1", "2"}),
        ({"price": {"gt": 40, "lte": 300}}, {"2", "5"}),
        ({"price": 25}, {"3"}),
        ({"price": "25.00"}, {"3"}),
        ({"price": 25.001}, set()),
        ({"is_active": False}, {"3"}),
        ({"is_active": "no"}, {"3"}),
        ({"kind": "lamp", "is_active": True}, {"4"}),
        ({"kind": "'; drop table x --"}, set()),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_every_row_that_passes_the_filters_is_found_and_no_other(
    shop: World, search: Search, filters: dict[str, Any], ids: set[str], exact: bool
) -> None:
    found = search.ids("red blue running", filters=filters, exact=exact)
    assert (set(found), len(found)) == (ids, len(ids))
    worded = search.ids("red blue running", mode="text", filters=filters)
    assert set(worded) == ids
    assert set(search.ids("red blue running", mode="hybrid", filters=filters)) == ids


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"price": "cheap"}, "filter 'price': 'cheap' is not a numeric"),
        ({"price": {"lt": True}}, "filter 'price': 'true' is not a numeric"),
        ({"is_active": ["yes", "perhaps"]}, "filter 'is_active': 'perhaps' is not a boolean"),
        ({"name": "x"}, "filter 'name' is not a filter column (kind, price, is_active)"),
    ],
)
def test_a_filter_that_cannot_be_is_named(
    shop: World, search: Search, filters: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        search.ids("shoe", filters=filters)
    assert says in str(error.value)


def test_a_filter_without_an_order_is_refused_for_what_it_is(world: World, search: Search) -> None:
    world.table("id bigint, name text, extra json")
    world.insert((1, "Pump", "{}"))
    world.run(world.declare(include=["name"], filters=["extra"]))
    with pytest.raises(ConfigurationError, match="values of type json cannot be compared"):
        search.ids("pump", filters={"extra": "{}"})


def test_any_column_may_be_a_filter(world: World, search: Search) -> None:
    world.table("id bigint, name text, f int, flags bit(3), tags text[]")
    world.insert((1, "pump", 7, "101", ["a", "b"]), (2, "pump", None, "001", ["a"]))
    world.run(world.declare(template="{name}", filters=["f", "flags", "tags"]))
    first = search.answer("pump", filters={"f": 7}).results[0]
    assert first.fields == {"f": 7, "flags": "101", "tags": ["a", "b"]}
    assert search.ids("pump", filters={"flags": "101"}) == ["1"]
    assert search.ids("pump", filters={"tags": "b"}) == ["1"]
    assert set(search.ids("pump", filters={"tags": ["a", "c"]})) == {"1", "2"}


def test_rare_rows_are_all_found_among_many(world: World, search: Search) -> None:
    world.table("id bigint, name text, shelf int")
    world.insert(*[(n, f"thing {n} of {n % 7}", n % 150) for n in range(3_000)])
    world.run(world.declare(template="{name}", filters=["shelf"]))
    found = search.ids("thing 5 of 3", filters={"shelf": 5}, top_k=20)
    assert {int(row_id) % 150 for row_id in found} == {5}
    assert len(found) == 20
    assert found == search.ids("thing 5 of 3", filters={"shelf": 5}, top_k=20, exact=True)


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat", "none"])
@pytest.mark.parametrize("storage", ["vector", "halfvec"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_the_index_finds_what_an_exact_search_finds(
    world: World, search: Search, kind: str, storage: str, metric: str
) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n} of {n % 7}") for n in range(300)])
    world.run(world.declare(index={"type": kind}, storage=storage, metric=metric))
    query = "thing 12 of 5"
    indexed, exact = search.answer(query), search.answer(query, exact=True)
    assert exact.results[0].id == "12"
    assert [hit.id for hit in indexed.results] == [hit.id for hit in exact.results]
    asked = world.encoder.encode_query([query]).vectors[0]
    of = world.encoder.encode_query([exact.results[0].text]).vectors[0]
    similarity = {
        "cosine": float(asked @ of),
        "ip": float(asked @ of),
        "l2": 1 / (1 + float(np.linalg.norm(asked - of))),
    }
    assert exact.results[0].score == pytest.approx(similarity[metric], abs=1e-3)


@pytest.mark.parametrize(("metric", "distance"), [("cosine", 0.6), ("l2", 1.0954), ("ip", -0.4)])
def test_a_threshold_is_a_similarity_or_a_distance(
    shop: World, search: Search, metric: str, distance: float
) -> None:
    shop.run(declared(shop, metric=metric))
    all_of_them = search.answer("red shoe").results
    least = {"cosine": 0.4, "ip": 0.4, "l2": 1 / (1 + 1.0954)}[metric]
    near = [hit.id for hit in all_of_them if hit.score >= least]
    assert 0 < len(near) < len(all_of_them)
    assert search.ids("red shoe", min_similarity=least) == near
    assert search.ids("red shoe", max_distance=distance) == near
    assert search.answer("red shoe", max_distance=distance).shortfall == 10 - len(near)


def test_a_threshold_may_be_a_setting_of_which_fused_scores_know_nothing(
    shop: World, opened: Callable[..., Search]
) -> None:
    search = opened(embedding_similarity_threshold=0.99)
    assert search.ids("red shoe") == ["1"]
    assert len(search.ids("red shoe", min_similarity=-1)) == 5
    assert len(search.ids("red shoe", mode="hybrid")) == 5


def test_a_row_of_several_chunks_is_found_once_by_its_best(world: World, search: Search) -> None:
    world.table("id bigint, body text")
    many = " ".join(f"Sentence {n} is about the pump." for n in range(120))
    world.insert((1, many), (2, "A hose."), (3, "A valve for the pump."))
    world.run(world.declare(template="{body}", chunk={"tokens": 16}))
    for mode in MODES:
        answer = search.answer("sentence 77 is about the pump", mode=mode, top_k=3)
        assert len({hit.id for hit in answer.results}) == len(answer.results)
        assert "Sentence 77" in answer.results[0].text
        assert answer.results[0].chunk > 0
    assert set(search.ids("pump", top_k=3)) == {"1", "2", "3"}


def test_a_word_that_one_row_has_counts_more_in_hybrid_search_than_the_usual_words(
    world: World, search: Search
) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"pump valve hose {'small' if n % 2 else 'large'}") for n in range(60)))
    world.insert((77, "zx4711"))
    world.run(world.declare(template="{name}"))
    assert search.ids("pump valve hose zx4711", mode="dense", top_k=1) != ["77"]
    assert search.ids("pump valve hose zx4711", mode="hybrid", top_k=1) == ["77"]


def test_similar_rows_are_those_nearest_to_a_row_without_itself(
    shop: World, search: Search
) -> None:
    assert search.similar("1", top_k=1) in (["2"], ["4"])
    assert set(search.similar("1")) == {"2", "3", "4", "5"}
    assert search.similar("1", filters={"kind": "lamp"}, exact=True)[0] == "4"
    with pytest.raises(ConfigurationError, match="row '77' has no published vector"):
        search.similar("77")
    with pytest.raises(ConfigurationError, match="'x' is not a bigint"):
        search.similar("x")


def test_more_columns_of_the_staging_model_come_along(shop: World, search: Search) -> None:
    (best,) = search.answer("blue lamp", top_k=1, columns=("name", "id")).results
    assert best.fields == {
        **{"kind": "lamp", "price": 25, "is_active": False},
        **{"name": "blue lamp", "id": 3},
    }
    with pytest.raises(ConfigurationError, match="column 'titel' is not in stg_item"):
        search.answer("lamp", columns=("titel",))


def test_what_is_not_there_is_named_with_the_choices(shop: World, search: Search) -> None:
    with pytest.raises(ConfigurationError, match=r"no entity 'itm' \(published: item\)"):
        search.answer("lamp", entity="itm")
    shop.table("id bigint, name text", name="stg_other")
    shop.texts(shop.declare("other", template="{name}"))
    with pytest.raises(ConfigurationError, match="nothing is published yet of entity 'other'"):
        search.answer("lamp", entity="other")


def test_nothing_that_people_type_is_an_error(shop: World, search: Search) -> None:
    lines = [line for line in NAUGHTY.read_text().splitlines() if line.strip()]
    for line in lines[::5]:
        for mode in MODES:
            search.answer(line, mode=mode, filters={"kind": line})


def test_vectors_of_zeros_are_no_results(world: World, search: Search) -> None:
    class Mute(WordsEncoder):
        def encode_query(self, texts: Any) -> Any:
            made = super().encode_query(texts)
            for n, text in enumerate(texts):
                if "nothing" in text:
                    made.vectors[n] = 0
            return made

    world.use(Mute(WORDS))
    world.table("id bigint, name text")
    world.insert((1, "nothing"), (2, "pump"))
    world.run(world.declare(template="{name}"))
    for exact in (True, False):
        assert search.ids("pump", exact=exact) == ["2"]
    assert search.answer("nothing").shortfall == 10


@pytest.mark.usefixtures("superuser")
def test_filters_have_indexes_that_take_any_value_and_are_made_anew_if_broken(
    world: World, search: Search
) -> None:
    world.table("id bigint, name text, kind text, price int, extra json")
    world.insert((1, "pump", "x" * 5000, 5, "{}"), (2, "hose", "y", 6, "{}"))
    item = world.declare(include=["name"], filters=["kind", "price", "extra"])
    world.run(item)
    indexes = """
        select a.amname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
        join pg_am a on a.oid = c.relam where c.relname like 'item\\_vectors\\_1\\_by\\__'
        or c.relname like 'item\\_vectors\\_1\\_by\\___' order by 1
    """
    assert world.sql(indexes) == [("btree", True), ("hash", True)]
    assert search.ids("hose", filters={"kind": "x" * 1000}) == []
    assert search.ids("hose", filters={"price": 5}) == ["1"]
    world.sql(
        "update pg_index set indisvalid = false where indexrelid::regclass::text like '%_by_%'"
        f" and indrelid = '{SCHEMA}.item_vectors_1'::regclass and not indisprimary"
    )
    world.publish(item)
    assert world.sql(indexes) == [("btree", True), ("hash", True)]
