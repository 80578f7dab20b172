"""Search measured by judged queries, with the packaged model and with words alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.evaluation import evaluate
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.sync.qrels import Qrels
from tests.search.conftest import Search
from tests.support.world import World


def test_each_mode_is_measured_exactly_and_through_the_index(world: World, search: Search) -> None:
    world.table("id bigint, name text")
    world.insert((1, "red shoe"), (2, "blue lamp"), (3, "water pump"))
    world.run(world.declare(template="{name}"))
    qrels = Qrels(
        {"a": "red shoe", "b": "a lamp that is blue", "c": "pump"},
        {"a": {"1": 1}, "b": {"2": 2}, "c": {"1": 1}},
    )
    measured = evaluate(search.searcher, "item", qrels)
    assert [(m.mode, m.exact) for m in measured] == [
        *(("dense", True), ("dense", False), ("text", True), ("text", False)),
        *(("hybrid", True), ("hybrid", False)),
    ]
    by_text = measured[2]
    # the third query finds the pump, which was not meant
    assert (by_text.ndcg_at_10, by_text.recall_at_100, by_text.mrr) == pytest.approx((2 / 3,) * 3)
    assert measured[0].recall_at_100 == 1


def test_a_query_that_is_a_row_is_not_its_own_answer(world: World, search: Search) -> None:
    world.table("id bigint, name text")
    world.insert((1, "red shoe"), (2, "red boots"), (3, "water pump"))
    world.run(world.declare(template="{name}"))
    qrels = Qrels({"1": "red shoe"}, {"1": {"2": 1}})
    measured = evaluate(search.searcher, "item", qrels, queries_are_rows=True)
    assert {m.mrr for m in measured} == {1}


def test_a_query_whose_id_is_that_of_a_row_by_chance_may_find_it(
    world: World, search: Search
) -> None:
    world.table("id bigint, name text")
    world.insert((1, "red shoe"), (2, "red boots"))
    world.run(world.declare(template="{name}"))
    measured = evaluate(search.searcher, "item", Qrels({"1": "red shoe"}, {"1": {"1": 1}}))
    assert {m.mrr for m in measured} == {1}


def test_qrels_without_queries_are_refused(search: Search) -> None:
    with pytest.raises(ConfigurationError, match="no query has a relevant row"):
        evaluate(search.searcher, "item", Qrels({}, {}))


def test_the_packaged_model_finds_by_meaning(world: World, opened: Callable[..., Search]) -> None:
    world.encoders = Encoders(Settings(_env_file=None, embedding_device="cpu"))
    world.table("id bigint, name text")
    world.insert((1, "red leather boots"), (2, "a lamp to read by"), (3, "water pump"))
    world.run(world.declare(template="{name}", model=DEFAULT_MODEL))
    search = opened()
    assert search.ids("footwear", top_k=1) == ["1"]
    assert search.ids("light for books", top_k=1, mode="hybrid") == ["2"]
    assert search.answer("footwear").model == DEFAULT_MODEL
