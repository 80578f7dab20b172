"""Which texts can reach a score: what the tsquery says, and what its bounds stand on."""

from __future__ import annotations

from itertools import pairwise

import pytest

from embeddings_pipeline.store.search.lexical import Words, idf
from embeddings_pipeline.store.texts.lexemes import LEVELS, REFERENCE_TOKENS


def words(quoted: list[str], documents: list[int], weights: list[float], average: float) -> Words:
    return Words(quoted, documents, weights, 1000, average)


COMMON = words(["'pump'"], [900], [0.5], REFERENCE_TOKENS)
TWO = words(["'red'", "'pump'"], [10, 900], [4.0, 0.5], REFERENCE_TOKENS)


def test_every_text_with_a_word_reaches_nothing() -> None:
    assert TWO.reaching(0) == "'red' | 'pump'"


def test_a_word_that_adds_too_little_is_not_enough_by_itself() -> None:
    assert TWO.reaching(0.6) == "'red'"
    assert TWO.reaching(4.46) == "'red 90' & ('pump 90')"


@pytest.mark.parametrize(("below", "level"), [*pairwise((0.0, *LEVELS))])
def test_a_word_has_to_reach_the_level_above_which_it_adds_enough(
    below: float, level: float
) -> None:
    assert COMMON.reaching(0.5 * level + 1e-6) == _pump(level)
    assert COMMON.reaching(0.5 * level - 1e-6) == _pump(below)


def _pump(level: float) -> str:
    return f"'pump {round(100 * level)}'" if level else "'pump'"


@pytest.mark.parametrize("times", [0.2, 0.5, 1, 2, 10])
def test_no_text_weighs_more_than_its_levels_allow_at_any_average_length(
    times: float,
) -> None:
    average = REFERENCE_TOKENS * times
    some = words(["'pump'"], [900], [1.0], average)
    for occurrences in (1, 2, 3, 5, 8, 20, 250):
        for tokens in (1, 5, 20, 60, 100, 200, 500, 2000, 20_000):
            stored = _weight(occurrences, tokens, REFERENCE_TOKENS)
            lexemes = {_pump(level) for level in (0.0, *LEVELS) if stored >= level}
            assert some.reaching(_weight(occurrences, tokens, average)) in lexemes


def _weight(occurrences: int, tokens: int, average: float) -> float:
    return occurrences / (occurrences + 0.9 * (0.6 + 0.4 * tokens / average))


def test_words_beyond_those_that_are_weighed_are_taken_to_occur() -> None:
    many = words([f"'w{n}'" for n in range(20)], [10] * 20, [1.0] * 20, REFERENCE_TOKENS)
    assert many.reaching(5) == " | ".join(many.words)
    assert many.reaching(13.5) == "'w6' | 'w5' | 'w4' | 'w3' | 'w2' | 'w1' | 'w0'"
    assert many.reaching(19.05) == "'w0' & ('w1' & ('w2' & ('w3' & ('w4' & ('w5' & ('w6'))))))"


def test_fewer_texts_reach_a_higher_score() -> None:
    two = words(["'red'", "'pump'"], [100, 500], [idf(1000, 100), idf(1000, 500)], REFERENCE_TOKENS)
    assert two.likely(600) == 0
    assert 0 < two.likely(40) < two.likely(1) < sum(two.idf)
    assert words([], [], [], REFERENCE_TOKENS).likely(1) == 0
