"""Texts of like length go together, and no batch is larger than it may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.encoders.batching import by_tokens, tapered


@given(st.lists(st.integers(0, 512), max_size=60), st.integers(1, 2048), st.integers(1, 32))
def test_every_text_is_in_one_batch_that_is_no_larger_than_it_may_be(
    lengths: list[int], max_tokens: int, max_texts: int
) -> None:
    batches = by_tokens(lengths, max_tokens=max_tokens, max_texts=max_texts)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) == 1 or (padded <= max_tokens and len(batch) <= max_texts)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=60))
def test_no_text_is_shorter_than_one_of_a_later_batch(lengths: list[int]) -> None:
    batches = by_tokens(lengths, max_tokens=1024, max_texts=8)
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)


def test_batches_are_filled() -> None:
    assert by_tokens([10] * 7, max_tokens=30, max_texts=9) == [[0, 1, 2], [3, 4, 5], [6]]
    assert by_tokens([10] * 7, max_tokens=99, max_texts=4) == [[0, 1, 2, 3], [4, 5, 6]]
    assert by_tokens([5, 500, 5], max_tokens=100, max_texts=9) == [[1], [0, 2]]
    assert by_tokens([], max_tokens=100, max_texts=9) == []


def test_the_last_batch_of_each_lane_is_cut_in_four() -> None:
    batches = [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9]]
    assert tapered(batches, lanes=2) == [[0, 1, 2, 3], [4, 5], [6, 7], [8], [9]]
    assert tapered(batches, lanes=3) == batches
    assert tapered([], lanes=2) == []
