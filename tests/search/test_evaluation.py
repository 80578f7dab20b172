"""Search measured by judged queries, with the packaged model and with words alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.evaluation import evaluate, tune
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from embeddings_pipeline.sync.quality.qrels import Qrels
from tests.search.conftest import Search
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World


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


class SynonymsEncoder(WordsEncoder):
    """Knows that who asks for a jumper means a pullover."""

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        return super().encode_query(texts)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        return super().encode_query([text.replace("jumper", "pullover") for text in texts])


@pytest.fixture
def jumpers(world: World) -> World:
    """Two rows for each query: one has its meaning, the other its word."""
    world.use(SynonymsEncoder())
    world.table("id bigint, name text")
    world.insert(*((n, f"pullover{n} for sale") for n in range(24)))
    world.insert(*((100 + n, f"jumper{n} for sale") for n in range(24)))
    world.run(world.declare(template="{name}"))
    return world


def test_words_count_less_where_no_row_has_most_of_what_is_asked_for(
    jumpers: World, search: Search
) -> None:
    meant = jumpers.encoder.encode_query(["is there a pullover7 for sale"]).vectors[0].tolist()
    asked = "jumper7 knitted by somebody in a cold winter"
    assert search.ids("jumper7", mode="hybrid", vector=meant, top_k=1) == ["107"]
    assert search.ids(asked, mode="text", top_k=1) == ["107"]
    assert search.ids(asked, mode="hybrid", vector=meant, top_k=1) == ["7"]


def judged(answer: Callable[[int], int]) -> Qrels:
    return Qrels(
        {f"q{n}": f"jumper{n}" for n in range(24)},
        {f"q{n}": {str(answer(n)): 1} for n in range(24)},
    )


def test_a_weight_that_helps_the_other_queries_too_is_stored_and_used(jumpers: World) -> None:
    settings = Settings(
        _env_file=None, staging_db_url=jumpers.database.url, pgvector_url=jumpers.database.url
    )
    by_meaning = judged(lambda n: n)
    with Pipeline(settings) as pipeline:
        pipeline.encoders.add(jumpers.encoder)
        tuned = pipeline.tune("item", by_meaning)

        assert tuned.is_better
        assert (tuned.ndcg_at_10, tuned.text_weight < 0.5) == (1, True)
        assert pipeline.search("item", "jumper7", mode="hybrid").results[0].id == "7"
    stored = jumpers.sql(f"select text_weight from {SCHEMA}.vector_sets")
    assert stored == [(tuned.text_weight,)]


def test_a_weight_that_helps_no_other_query_is_not_stored(jumpers: World, search: Search) -> None:
    by_words = judged(lambda n: 100 + n)
    tuned = tune(search.searcher, "item", by_words)
    assert (tuned.untuned, tuned.is_better) == (1, False)


def test_few_queries_tune_nothing(search: Search) -> None:
    with pytest.raises(ConfigurationError, match="tuning needs 20 queries with a relevant row"):
        tune(search.searcher, "item", Qrels({"a": "shoe"}, {"a": {"1": 1}}))


def test_a_query_that_cannot_be_searched_is_named(search: Search) -> None:
    qrels = Qrels({"a": "shoe", "b": "shoe " * 2_000}, {"a": {"1": 1}, "b": {"1": 1}})
    with pytest.raises(ConfigurationError, match=r"judged query 'b': .* at most 8192 characters"):
        evaluate(search.searcher, "item", qrels)


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
