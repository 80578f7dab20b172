"""The tokens of a plan are those of the run: of weighted parts, and where texts are many."""

from __future__ import annotations

from typing import Any

import pytest

from embeddings_pipeline.encoders.encoder import TokenCount
from embeddings_pipeline.entities.chunking import count_tokens, estimate_tokens, measure_tokens
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.vectors import coverage
from embeddings_pipeline.store.vectors.coverage import TextCounts
from embeddings_pipeline.sync import plan
from embeddings_pipeline.sync.explain import explain
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World

WEIGHTED = {"weights": {"name": 2, "body": 1, "section": 1}}


def test_tokens_are_estimated_whatever_the_order_of_the_rows(world: World) -> None:
    world.table("id bigint, name text")
    world.sql(
        "insert into staging.stg_item"
        " select n, repeat('word ', case when n <= 7000 then 1 else 20 + n % 70 end) || n"
        " from generate_series(1, 8000) n"
    )
    item = world.declare(template="{name}")
    planned = world.plan(item)
    world.texts(item)
    ((texts,),) = world.sql(f"select array_agg(text) from {SCHEMA}.item_texts")
    assert planned.tokens_estimated
    assert planned.sets[0].tokens == pytest.approx(sum(count_tokens(texts)), rel=0.03)


def test_an_estimate_is_near_the_measure_without_measuring_each_text() -> None:
    texts = [f"{'one more word ' * (n % 40)}and number {n}" for n in range(2_000)]
    estimated = estimate_tokens(texts)
    assert sum(estimated) == pytest.approx(sum(measure_tokens(texts)), rel=0.02)
    assert estimated != measure_tokens(texts)
    assert estimate_tokens(["one text"]) == measure_tokens(["one text"])
    assert estimate_tokens([]) == []


def test_short_texts_are_measured_by_their_length_and_long_ones_counted() -> None:
    prose = "a red shoe with blue laces for running on wet roads in the rain"
    long = f"{prose} {prose} {prose}"
    assert measure_tokens([long, prose])[0] == count_tokens([long])[0]
    assert measure_tokens([prose]) == pytest.approx(count_tokens([prose]), rel=0.2)


class Wordy(WordsEncoder):
    """Its tokenizer counts a token for each letter."""

    def __init__(self) -> None:
        super().__init__()
        self.token_count = TokenCount(lambda texts: [*map(len, texts)])


@pytest.fixture
def of_letters(world: World) -> World:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {'of ' * (n % 50)}{n % 400}") for n in range(500)])
    world.use(Wordy())
    return world


def test_tokens_are_counted_as_the_model_counts_them(of_letters: World) -> None:
    item = of_letters.declare(template="{name}")
    planned = of_letters.plan(item)
    of_letters.texts(item)
    of_letters.vectors(item, "counted")
    ((plans, texts),) = of_letters.sql(
        f"select plan, (select array_agg(distinct text) from {SCHEMA}.item_texts)"
        f" from {SCHEMA}.run_ledger where plan is not null"
    )
    tokens = sum(map(len, texts))
    assert (planned.sets[0].tokens, plans[0]["tokens"]) == (tokens, tokens)
    assert not planned.tokens_estimated


def test_of_many_texts_a_sample_tells_how_the_model_counts(
    of_letters: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SAMPLE", 100)
    item = of_letters.declare(template="{name}")
    planned = of_letters.plan(item)
    of_letters.texts(item)
    ((texts,),) = of_letters.sql(f"select array_agg(distinct text) from {SCHEMA}.item_texts")
    assert planned.sets[0].tokens == pytest.approx(sum(map(len, texts)), rel=0.1)
    assert planned.tokens_estimated


@pytest.fixture
def sections(world: World) -> World:
    """90 rows: two fields that together are past what the model reads, of ten
    one that is so alone, and one of three values."""
    world.table("id bigint, name text, body text, section text")
    world.insert(
        *[
            (n, f"title {n} " * 90, f"body {n} " * (150 if n % 9 == 0 else 60), f"of {n % 3}")
            for n in range(90)
        ]
    )
    return world


def plan_and_run(world: World, item: Entity, **asked: Any) -> tuple[int, int]:
    planned = world.plan(item)
    done = world.run(item)
    ((plans,),) = world.sql(f"select plan from {SCHEMA}.run_ledger where plan is not null")
    assert plans[0]["tokens"] == planned.sets[0].tokens
    return planned.sets[0].tokens, done["tokens"]


def test_weighted_parts_are_cut_each_by_itself_and_equal_ones_read_once(sections: World) -> None:
    planned, done = plan_and_run(sections, sections.declare(**WEIGHTED))
    assert planned == done
    assert sum(text == "of 1" for text in sections.encoder.encoded) == 1


def test_a_weighted_row_is_truncated_where_one_of_its_parts_is(sections: World) -> None:
    item = sections.declare(**WEIGHTED)
    # equal texts of ten rows are one
    assert sections.run(item)["truncated"] == 10
    names = sections.names_of(item)
    with open_tables(sections.postgres, names) as tables:
        assert coverage.text_counts(tables, 256) == TextCounts(0, 0, 10)
    cut = [
        explain(sections.postgres, sections.postgres, names, sections.encoders, row_id).chunks[0]
        for row_id in ("9", "10")
    ]
    assert [chunk.truncated for chunk in cut] == [True, False]
    assert all(chunk.tokens > 256 for chunk in cut)
