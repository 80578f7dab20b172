"""Which texts can reach a score: what the tsquery says, and what its bounds stand on."""

from __future__ import annotations

import pytest

from embeddings_pipeline.store.search.lexical import Words, idf

COMMON = Words(["'pump'"], [900], [0.5], 1000)
TWO = Words(["'red'", "'pump'"], [10, 900], [4.0, 0.5], 1000)


def bound(times: int) -> float:
    """The most that a word with this frequency adds to the score: in a text of length 0."""
    return times / (times + 0.9 * 0.6)


def test_every_text_with_a_word_reaches_nothing() -> None:
    assert TWO.reaching(0) == "'red' | 'pump'"


def test_a_word_that_adds_too_little_is_not_enough_by_itself() -> None:
    assert TWO.reaching(0.6) == "'red'"
    assert TWO.reaching(4.45) == "'red 8' & ('pump 4')"


@pytest.mark.parametrize(
    ("reached_by", "found"), [(2, "'pump'"), (3, "'pump 3'"), (5, "'pump 4'"), (7, "'pump 6'")]
)
def test_a_word_has_to_be_said_often_enough(reached_by: int, found: str) -> None:
    assert COMMON.reaching(0.5 * bound(reached_by)) == found
    assert COMMON.reaching(0.5 * bound(reached_by) + 1e-6) != found


def test_words_beyond_those_that_are_weighed_are_taken_as_said() -> None:
    many = Words([f"'w{n}'" for n in range(20)], [10] * 20, [1.0] * 20, 1000)
    assert many.reaching(5) == " | ".join(many.words)
    assert many.reaching(13.5) == "'w6' | 'w5' | 'w4' | 'w3' | 'w2' | 'w1' | 'w0'"
    assert many.reaching(19.5).startswith("'w0' & ('w1' & ('w2' &")
    assert "'w7'" not in many.reaching(19.5)


def test_likely_texts_are_so_many_by_what_is_known_of_the_words() -> None:
    words = Words(["'red'", "'pump'"], [100, 500], [idf(1000, 100), idf(1000, 500)], 1000)
    assert words.likely(600) == "'red' | 'pump'"
    assert words.likely(40) == words.likely(50)
    assert words.likely(1) != words.likely(40)
    assert Words([], [], [], 0).likely(1) == ""
