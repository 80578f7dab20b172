"""Whatever a provider answers is vectors of the asked texts, or is refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.encoders.openai_answers import Unusable, read_answer

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
    vectors, tokens = read_answer(body, 2, 2)
    np.testing.assert_array_equal(vectors, np.array([[3, 4], [1, 2]], np.float32))
    assert (vectors.dtype, tokens) == (np.float32, 9)


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 0}, {"total_tokens": "9"}, 3])
def test_tokens_that_are_not_told_are_none(usage: Any) -> None:
    assert read_answer({"data": [item(0)], "usage": usage}, 1, 2).tokens is None


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
    with pytest.raises(Unusable) as refused:
        read_answer({"data": data, "usage": {"total_tokens": 9}}, 2, 2)
    assert refused.value.tokens == 9


def test_vectors_of_any_one_dimension_are_taken_where_it_is_not_known() -> None:
    assert read_answer({"data": [item(0)]}, 1, None).vectors.shape == (1, 2)
    with pytest.raises(Unusable, match="not of 2 dimensions"):
        read_answer({"data": [item(0), item(1, [1.0])]}, 2, None)


@given(anything | st.fixed_dictionaries({"data": st.lists(items, max_size=3) | anything}))
def test_rubbish_is_refused_and_nothing_else(body: Any) -> None:
    try:
        vectors, _ = read_answer(body, 2, 2)
    except Unusable:
        return
    assert vectors.shape == (2, 2)
