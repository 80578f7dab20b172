"""Texts of like length go together, and no batch is larger than it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.encoders.batching import batches_by_length, taper_batches
from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, RowError
from tests.support.streaming import Source, lengths_of, stream_in_batches, streamed
from tests.support.words import WordsEncoder


@given(
    st.lists(st.integers(0, 512), max_size=60),
    st.integers(1, 2048),
    st.integers(1, 32),
    st.booleans(),
)
def test_every_text_is_in_one_batch_that_is_no_larger_than_it_may_be(
    lengths: list[int], max_tokens: int, max_texts: int, pads: bool
) -> None:
    batches = batches_by_length(lengths, max_tokens=max_tokens, max_texts=max_texts, pads=pads)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[index] for index in batch]
        tokens = len(batch) * max(own) if pads else sum(own)
        assert len(batch) == 1 or (tokens <= max_tokens and len(batch) <= max_texts)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=60))
def test_no_text_is_shorter_than_one_of_a_later_batch(lengths: list[int]) -> None:
    batches = batches_by_length(lengths, max_tokens=1024, max_texts=8, pads=True)
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)


@pytest.mark.parametrize("pads", [True, False])
def test_batches_are_filled(pads: bool) -> None:
    def batches(lengths: list[int], max_tokens: int, max_texts: int = 9) -> list[list[int]]:
        return batches_by_length(lengths, max_tokens=max_tokens, max_texts=max_texts, pads=pads)

    assert batches([10] * 7, 30) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches([10] * 7, 99, max_texts=4) == [[0, 1, 2, 3], [4, 5, 6]]
    assert batches([5, 500, 5], 100) == [[1], [0, 2]]
    assert batches([5, 50, 5], 60) == ([[1], [0, 2]] if pads else [[1, 0, 2]])
    assert batches([], 100) == []


def test_the_last_batch_of_each_worker_is_cut_in_four() -> None:
    batches = [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9]]
    assert taper_batches(batches, workers=2) == [[0, 1, 2, 3], [4, 5], [6, 7], [8], [9]]
    assert taper_batches(batches, workers=3) == batches
    assert taper_batches([], workers=2) == []


def test_an_encoder_without_a_stream_gives_batches_in_order() -> None:
    source = Source(["a", "bb", "ccc", "dddd", "eeeee"])
    batches = stream_in_batches(lengths_of, source, 2)
    assert source.read == 0
    first = next(batches)
    assert ([*first.places], first.encodings.vectors.tolist()) == ([0, 1], [[1], [2]])
    assert source.read == 2
    rest = streamed(batches)
    assert [[*batch.places] for batch in rest.batches] == [[2, 3], [4]]
    assert rest.vectors(1)[2:].tolist() == [[3], [4], [5]]
    assert rest.raised is None


@pytest.mark.parametrize("error", [RuntimeError("odd"), ValueError("odd"), RowError("odd")])
def test_a_batch_that_fails_has_the_error_and_the_stream_goes_on(error: Exception) -> None:
    def encode(texts: Sequence[str]) -> Encodings:
        if "bad" in texts:
            raise error
        return lengths_of(texts)

    done = streamed(stream_in_batches(encode, ["a", "b", "bad", "d", "e"], 2))
    assert [batch.error for batch in done.batches] == [None, error, None]
    assert len(done.batches[1].encodings.vectors) == 0
    assert (done.places, done.raised) == ([*range(5)], None)


@pytest.mark.parametrize(
    "error",
    [EmbeddingsError("gone"), ConfigurationError("gone"), psycopg.OperationalError("gone")],
)
def test_what_ends_a_run_ends_the_stream(error: Exception) -> None:
    def encode(texts: Sequence[str]) -> Encodings:
        if "bad" in texts:
            raise error
        return lengths_of(texts)

    done = streamed(stream_in_batches(encode, ["a", "b", "bad", "d", "e"], 2))
    assert (done.places, done.raised) == ([0, 1], error)


def test_what_an_encoder_made_before_it_stopped_is_given_out() -> None:
    error = EmbeddingsError("the key is refused")

    def encode(texts: Sequence[str]) -> Encodings:
        return replace(lengths_of(texts), failures={1: "not read"}, stopped=error)

    done = streamed(stream_in_batches(encode, ["a", "bb", "ccc"], 3))
    assert (done.places, done.raised) == ([0, 2], error)
    assert done.vectors(1)[[0, 2], 0].tolist() == [1, 3]


def test_too_few_vectors_are_an_error_of_the_batch() -> None:
    done = streamed(stream_in_batches(lambda texts: lengths_of(texts[1:]), ["a", "b"], 2))
    assert str(done.batches[0].error) == "the encoder gave 1 vectors for 2 texts"


def test_words_are_streamed_through_what_is_called_before_each_batch() -> None:
    batches: list[int] = []
    words = WordsEncoder(before=lambda texts: batches.append(len(texts)))
    words.batch_texts = 4
    done = streamed(words.encode_stream(f"word {n}" for n in range(10)))
    assert (batches, done.places) == ([4, 4, 2], [*range(10)])
    assert words.encoded == [f"word {n}" for n in range(10)]
