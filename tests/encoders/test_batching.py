"""Batches of texts of like length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.encoders.batching import by_tokens


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 500), st.integers(1, 40))
def test_every_text_is_in_one_batch_that_keeps_its_bounds(
    lengths: list[int], max_tokens: int, max_texts: int
) -> None:
    batches = by_tokens(lengths, max_tokens=max_tokens, max_texts=max_texts)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert len(batch) == 1 or (padded <= max_tokens and len(batch) <= max_texts)


def test_texts_of_like_length_share_a_batch() -> None:
    assert by_tokens([10, 100, 10, 100], max_tokens=200, max_texts=8) == [[1, 3], [0, 2]]
