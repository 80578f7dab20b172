"""Full-text search: the language of the entity, BM25, and what keeps the counts right."""

from __future__ import annotations

import math

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.texts import lexemes
from embeddings_pipeline.sync.index import sync_index
from tests.search.conftest import Search
from tests.support.world import SCHEMA, World


def load(world: World, *texts: str, **keys: str) -> None:
    world.table("id bigint, name text")
    world.insert(*enumerate(texts, 1))
    world.run(world.declare(template="{name}", **keys))


def test_russian_words_are_found_in_their_other_forms(world: World, search: Search) -> None:
    load(world, "Красивые вышитые подушки", "Синяя лампа", "Red cushions", language="russian")
    assert search.ids("подушка", mode="text") == ["1"]
    assert search.ids("красивая лампа", mode="text") == ["2", "1"]
    assert search.ids("cushion", mode="text") == ["3"]


def test_another_language_makes_the_lexemes_anew(world: World, search: Search) -> None:
    load(world, "Красивые подушки", "The running shoes")
    assert search.ids("shoe", mode="text") == ["2"]
    assert search.ids("подушка", mode="text") == []
    world.run(world.declare(template="{name}", language="russian"))
    assert search.ids("подушка", mode="text") == ["1"]
    world.run(world.declare(template="{name}", language="simple"))
    assert search.ids("shoe", mode="text") == []
    assert search.ids("the", mode="text") == ["2"]


def test_an_unknown_language_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="'klingon'"):
        world.declare(language="klingon")


def test_a_score_is_bm25(world: World, search: Search) -> None:
    load(world, "pump", "pump pump pump hose hose valve", "hose valve", "lamp")
    tokens: dict[int, int] = dict(world.sql(f"select id, tokens from {SCHEMA}.item_texts"))
    average = sum(tokens.values()) / 4

    def bm25(row: int, **frequencies: int) -> float:
        length = 0.9 * (1 - 0.4 + 0.4 * tokens[row] / average)
        idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
        return sum(idf * f / (f + length) for f in frequencies.values())

    found = {hit.id: hit.score for hit in search.answer("pumps or hoses", mode="text").results}
    assert found == {
        "1": pytest.approx(bm25(1, pump=1)),
        "2": pytest.approx(bm25(2, pump=3, hose=2)),
        "3": pytest.approx(bm25(3, hose=1)),
    }


@pytest.mark.parametrize("times", [1, 2, 7, 60, 200])
def test_a_frequency_is_read_from_a_rank(world: World, search: Search, times: int) -> None:
    load(world, "pump " * times, "hose")
    (hit,) = search.answer("pump", mode="text").results
    ((tokens, average),) = world.sql(
        f"select tokens, (select avg(tokens)::float8 from {SCHEMA}.item_texts)"
        f" from {SCHEMA}.item_texts where id = 1"
    )
    length = 0.9 * (0.6 + 0.4 * tokens / average)
    assert hit.score == pytest.approx(math.log(2) * times / (times + length), rel=1e-6)


@pytest.mark.parametrize(
    "word", ["o'neill", "c:\\temp\\x", "a&b|!c:*", "x.com/a?b&c=d'e", "e-mail"]
)
def test_words_with_signs_are_words(world: World, search: Search, word: str) -> None:
    load(world, f"about {word} today", "another row")
    assert search.ids(word, mode="text") == ["1"]


def test_words_within_and_behind_what_looks_like_a_tag_are_words(
    world: World, search: Search
) -> None:
    load(world, "put <script> before the aardvark", "a <b class=big>heron</b>", "lamp")
    assert search.ids("aardvark", mode="text") == ["1"]
    assert search.ids("<script> alert aardvark", mode="text") == ["1"]
    assert search.ids("<script lamp", mode="text") == ["3", "1"]
    assert search.ids("heron big", mode="text") == ["2"]


def test_frequent_words_are_counted_beforehand_and_rare_ones_when_asked(world: World) -> None:
    load(world, *[f"pump {'rare' if n < 20 else 'hose'} {n}" for n in range(300)])
    counted = f"select lexeme, documents from {SCHEMA}.item_lexemes order by 1"
    assert world.sql(counted) == [("hose", 280), ("pump", 300)]
    item = world.declare(template="{name}")

    world.sql("update staging.stg_item set name = 'valve ' || id where id <= 25")
    world.run(item)
    assert world.sql(counted) == [("hose", 280), ("pump", 300)]

    world.sql("update staging.stg_item set name = 'valve ' || id where id <= 120")
    world.run(item)
    assert world.sql(counted) == [("hose", 180), ("pump", 180), ("valv", 120)]


def test_an_entity_without_counts_says_what_to_do(world: World, search: Search) -> None:
    load(world, "pump")
    world.sql(f"update {SCHEMA}.entities set documents = null, counted_at = null")
    with pytest.raises(ConfigurationError, match="run `embeddings-pipeline run item`"):
        search.ids("pump", mode="text")
    sync_index(world.postgres, world.names_of(world.declare(template="{name}")))
    assert search.ids("pump", mode="text") == ["1"]


def test_a_text_of_more_than_a_row_can_index_is_found_by_its_beginning(
    world: World, search: Search
) -> None:
    # lexemes of many bytes, twice each: of the whole and of its parts
    endless = " ".join(f"ж{n}-щ{n}" for n in range(50_000))
    assert 700_000 < len(endless.encode()) < 1 << 20
    load(world, f"pump {endless} hose", "lamp")
    assert search.ids("pump", mode="text") == ["1"]
    assert search.ids("hose", mode="text") == []


def test_counts_do_not_move_for_a_row_in_a_hundred(world: World) -> None:
    load(world, *[f"pump {n}" for n in range(100)])
    names = world.names_of(world.declare(template="{name}"))
    with open_tables(world.postgres, names) as tables:
        assert not lexemes.refresh_counts(tables)
    world.insert((101, "hose"))
    world.texts(world.declare(template="{name}"))
    with open_tables(world.postgres, names) as tables:
        assert not lexemes.refresh_counts(tables)
