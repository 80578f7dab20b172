"""A word that no text has is compared with the words that texts have."""

from __future__ import annotations

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.search.published_search import Suggestion
from embeddings_pipeline.store.search.spelling import distance
from tests.search.conftest import Search
from tests.support.world import World

ROWS = (
    (1, "photo editing and photography for gardens"),
    (2, "a garden hose"),
    (3, "the garden lamp of a gardener"),
    (4, "видеоредактор для фотографий"),
    (5, "Äpfel aus Österreich"),
    (6, "数据库系统"),
)


@pytest.fixture
def texts(world: World) -> World:
    world.table("id bigint, name text")
    world.insert(*ROWS)
    world.run(world.declare(template="{name}"))
    return world


@pytest.mark.parametrize(
    ("query", "better"),
    [
        ("gadren", "garden"),
        ("hsoe", "hose"),
        ("ediitng", "editing"),
        ("photgrapy", "photography"),
        ("видеорадктор", "видеоредактор"),
        ("osterreich", None),
        ("österreih", "österreich"),
        # of four letters only two that are swapped, since too many words are near
        ("nose", None),
        ("zzqxvwert", None),
        # a script of thousands of letters, of which the most frequent are tried
        ("数据库系铳", "数据库系统"),
        ("", None),
    ],
)
def test_the_nearest_word_of_the_texts_is_suggested(
    texts: World, search: Search, query: str, better: str | None
) -> None:
    answer = search.answer(f"{query} 12", mode="text", spelling=True)
    assert answer.suggestion == (better and Suggestion(f"{better} 12", used=True))
    assert all(count == 0 for count in (answer.words or {}).values())


def test_a_suggestion_is_searched_where_no_text_has_any_word(texts: World, search: Search) -> None:
    answer = search.answer("Gadren", mode="text", spelling=True, total=True, highlight=True)
    assert {hit.id for hit in answer.results} == {"1", "2", "3"}
    assert answer.total is not None
    assert answer.total.rows == 3
    assert all(hit.highlights for hit in answer.results)
    assert search.ids("Gadren", mode="text") == []


def test_a_query_of_which_a_text_has_a_word_is_searched_as_it_is(
    texts: World, search: Search
) -> None:
    answer = search.answer("gadren lamp", mode="text", spelling=True)
    assert answer.suggestion == Suggestion("garden lamp", used=False)
    assert [hit.id for hit in answer.results] == ["3"]


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_answers_to_words_that_texts_have_stay_as_they_are(
    texts: World, search: Search, mode: str
) -> None:
    plain, spelled = (
        search.answer("garden hose", mode=mode, spelling=spelling) for spelling in (False, True)
    )
    assert plain == spelled


def test_a_word_that_is_still_being_typed_is_no_typo(texts: World, search: Search) -> None:
    assert search.answer("lamp garde", mode="text", spelling=True).suggestion is None
    typed = search.answer("garde lamp", mode="text", spelling=True)
    assert typed.suggestion == Suggestion("garden lamp", used=False)


def test_the_most_frequent_form_of_a_word_is_suggested(texts: World, search: Search) -> None:
    # of `garden`, `gardens` and others that have the same lexeme
    answer = search.answer("gardesn", mode="text", spelling=True)
    assert answer.suggestion == Suggestion("garden", used=True)


def test_spelling_is_of_words(texts: World, search: Search) -> None:
    with pytest.raises(ConfigurationError, match="spelling applies to modes text and hybrid"):
        search.answer("gadren", spelling=True)


@pytest.mark.parametrize(
    ("one", "other", "letters"),
    [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("abc", "acb", 1), ("kitten", "sitting", 3)],
)
def test_letters_between_two_words_are_counted(one: str, other: str, letters: int) -> None:
    assert distance(one, other) == distance(other, one) == letters
