"""Whatever a provider answers is vectors of the asked texts, or is refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.encoders.openai.responses import InvalidResponse, parse_response

TEXTS = ["pump", "hose"]
NUMBERS = [1.0, 2.0]
BASE64 = base64.b64encode(np.array(NUMBERS, "<f4").tobytes()).decode()

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(BASE64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage"]), inner)
    ),
)
items = st.fixed_dictionaries({"index": anything, "embedding": anything})


def item(index: Any, embedding: Any = BASE64) -> dict[str, Any]:
    return {"index": index, "embedding": embedding}


def test_base64_and_numbers_are_put_in_order() -> None:
    body = {"data": [item(1), item(0, [3, 4])], "usage": {"total_tokens": 9}}
    vectors, tokens = parse_response(body, TEXTS, 2)
    np.testing.assert_array_equal(vectors, np.array([[3, 4], [1, 2]], np.float32))
    assert (vectors.dtype, tokens) == (np.float32, 9)


@pytest.mark.parametrize("tokens", [None, 0, -9, "9", 9.0, True, 10**30, 1017])
def test_tokens_that_cannot_be_are_not_believed(tokens: Any) -> None:
    usage = {"total_tokens": tokens}
    assert parse_response({"data": [item(0)], "usage": usage}, TEXTS[:1], 2).tokens is None


@pytest.mark.parametrize("usage", [None, {}, 3])
def test_tokens_that_are_not_told_are_none(usage: Any) -> None:
    assert parse_response({"data": [item(0)], "usage": usage}, TEXTS[:1], 2).tokens is None


@pytest.mark.parametrize("more", [{}, {"total_tokens": 10**30}])
def test_tokens_of_the_prompt_are_taken_where_there_is_no_total(more: dict[str, Any]) -> None:
    body = {"data": [item(0)], "usage": {"prompt_tokens": 9, **more}}
    assert parse_response(body, TEXTS[:1], 2).tokens == 9


@pytest.mark.parametrize("error", [{"message": "out of memory"}, "out of memory"])
def test_an_error_in_place_of_an_answer_is_told_in_its_own_words(error: Any) -> None:
    with pytest.raises(InvalidResponse, match="an error: out of memory"):
        parse_response({"error": error}, TEXTS, 2)


@pytest.mark.parametrize("empty", ["", []])
def test_an_empty_vector_gives_no_dimension(empty: Any) -> None:
    with pytest.raises(InvalidResponse, match="no dimensions"):
        parse_response({"data": [item(0, empty)]}, TEXTS[:1], None)


@pytest.mark.parametrize(
    "data",
    [
        [item(0)],
        [item(0), item(0)],
        [item(0), item(2)],
        [item(0), item(1, [1.0])],
        [item(0), item(1, [[1.0, 2.0]])],
        [item(0), item(1, "not base64")],
        [item(0), item(1, BASE64[:-4])],
        [item(0), item(1, [10**400, 1])],
        [item(0), {"index": 1}],
    ],
)
def test_what_is_not_a_vector_for_each_text_is_refused_with_what_it_cost(data: Any) -> None:
    with pytest.raises(InvalidResponse) as refused:
        parse_response({"data": data, "usage": {"total_tokens": 9}}, TEXTS, 2)
    assert refused.value.tokens == 9


def test_vectors_of_any_one_dimension_are_taken_where_it_is_not_known() -> None:
    assert parse_response({"data": [item(0)]}, TEXTS[:1], None).vectors.shape == (1, 2)
    with pytest.raises(InvalidResponse, match="not of 2 dimensions"):
        parse_response({"data": [item(0), item(1, [1.0])]}, TEXTS, None)


@given(anything | st.fixed_dictionaries({"data": st.lists(items, max_size=3) | anything}))
def test_rubbish_is_refused_and_nothing_else(body: Any) -> None:
    try:
        vectors, _ = parse_response(body, TEXTS, 2)
    except InvalidResponse:
        return
    assert vectors.shape == (2, 2)
