"""Whatever a provider answers is vectors of the asked texts, or is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.encoders.openai import responses
from embeddings_pipeline.encoders.openai.responses import EmbeddingResponse, InvalidResponse

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


def parse(body: Any, texts: list[str] = TEXTS, dimension: int | None = 2) -> EmbeddingResponse:
    return responses.parse_response(json.dumps(body).encode(), texts, dimension)


def refusal(body: Any, texts: list[str] = TEXTS) -> InvalidResponse:
    with pytest.raises(InvalidResponse) as refused:
        parse(body, texts)
    return refused.value


def test_base64_and_numbers_are_put_in_order() -> None:
    body = {"data": [item(1), item(0, [3, 4])], "usage": {"total_tokens": 9}}
    vectors, unusable, tokens = parse(body)
    np.testing.assert_array_equal(vectors, np.array([[3, 4], [1, 2]], np.float32))
    assert vectors.dtype == np.float32
    assert (unusable, tokens) == ({}, 9)


@pytest.mark.parametrize(
    "body",
    [
        {"data": [item(0, [3, 4]), item(1)]},
        {"data": [item(None, [3, 4]), {"embedding": BASE64}]},
        {"data": [[3, 4], BASE64]},
        {"embeddings": [[3, 4], [1, 2]]},
        [[3, 4], [1, 2]],
        {"data": [item("1"), item("0", [3, 4])]},
        {"data": [item(2), item(1, [3, 4])]},
        {"data": [item(1, BASE64.rstrip("=")), item(0, [3.0, 4])], "usage": None, "error": None},
    ],
)
def test_what_an_answer_lacks_is_no_error_where_it_is_clear_without_it(body: Any) -> None:
    vectors, unusable, _ = parse(body)
    np.testing.assert_array_equal(vectors, np.array([[3, 4], [1, 2]], np.float32))
    assert unusable == {}


@pytest.mark.parametrize("tokens", [None, 0, -9, "9", 9.0, True, 10**30, 1017])
def test_tokens_that_cannot_be_are_not_believed(tokens: Any) -> None:
    usage = {"total_tokens": tokens}
    assert parse({"data": [item(0)], "usage": usage}, TEXTS[:1]).tokens is None


@pytest.mark.parametrize("usage", [None, {}, 3])
def test_tokens_that_are_not_told_are_none(usage: Any) -> None:
    assert parse({"data": [item(0)], "usage": usage}, TEXTS[:1]).tokens is None


@pytest.mark.parametrize("more", [{}, {"total_tokens": 10**30}])
def test_tokens_of_the_prompt_are_taken_where_there_is_no_total(more: dict[str, Any]) -> None:
    body = {"data": [item(0)], "usage": {"prompt_tokens": 9, **more}}
    assert parse(body, TEXTS[:1]).tokens == 9


@pytest.mark.parametrize("error", [{"message": "out of memory"}, "out of memory"])
def test_an_error_in_place_of_an_answer_is_told_in_its_own_words(error: Any) -> None:
    refused = refusal({"error": error})
    assert (str(refused), refused.tokens) == ("an error: out of memory", 0)


@pytest.mark.parametrize(
    ("data", "reason", "texts_suspected"),
    [
        ([item(0)], "1 vectors for 2 texts", True),
        ([], "0 vectors for 2 texts", True),
        (None, "no vectors", True),
        ({"0": [1, 2]}, "no vectors", True),
        ([item(0), item(0)], "two vectors have the index 0", False),
        ([item(0), item(2)], "the vectors have the indexes 0, 2, not 0 to 1", False),
        ([item(-1), item(0)], "the vectors have the indexes -1, 0, not 0 to 1", False),
        ([item(True), item(False)], "the vectors have the indexes True, False, not", False),
        ([item(0), {"embedding": BASE64}], "the vectors have the indexes 0, None, not", False),
        ([item(0, None), item(1, "")], "the vector is null", True),
    ],
)
def test_an_answer_that_leaves_open_which_vector_is_whose_is_refused_with_what_it_cost(
    data: Any, reason: str, texts_suspected: bool
) -> None:
    refused = refusal({"data": data, "usage": {"total_tokens": 9}})
    assert reason in str(refused)
    assert (refused.tokens, refused.texts_suspected) == (9, texts_suspected)


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        ([1.0], "the vector has 1 dimensions, not 2"),
        ([], "the vector has 0 dimensions, not 2"),
        ("", "the vector has 0 dimensions, not 2"),
        ([[1.0, 2.0]], "the vector has [1.0, 2.0] in place of a number"),
        ([True, False], "the vector has true in place of a number"),
        ([0.5, False], "the vector has false in place of a number"),
        (["0.1", "0.2"], 'the vector has "0.1" in place of a number'),
        ([0.1, None], "the vector has null in place of a number"),
        ([0.1, 0.2, {}], "the vector has {} in place of a number"),
        ("not base64", "the vector is not the base64 of numbers of four bytes"),
        (BASE64[:-4], "the vector is not the base64 of numbers of four bytes"),
        ([10**400, 1], "the vector has values that are not numbers of four bytes"),
        ([1e300, 1], "the vector is not finite"),
        ([float("nan"), 1], "the vector is not finite"),
        ({"float": [1, 2]}, 'the vector is {"float": [1, 2]}'),
        (None, "the vector is null"),
    ],
)
def test_a_vector_that_is_not_finite_numbers_of_the_right_count_is_refused_alone(
    embedding: Any, reason: str
) -> None:
    vectors, unusable, _ = parse({"data": [item(0), item(1, embedding)]})
    assert unusable == {1: reason}
    np.testing.assert_array_equal(vectors[0], NUMBERS)
    assert str(refusal({"data": [item(0, embedding)]}, TEXTS[:1])) == reason


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        ({"data": []}, True),
        ({"object": "list"}, True),
        ({"data": [item(0, "x"), item(1, "")]}, True),
        ({"data": [item(0, None), item(1, None)]}, True),
        # another encoding does not change what is no number
        ({"data": [item(0, ["0.1", "0.2"]), item(1, "")]}, False),
        ({"data": [item(0)]}, False),
        ({"data": [item(0), item(0)]}, False),
    ],
)
def test_another_format_is_asked_for_where_it_may_help(body: Any, asks: bool) -> None:
    assert refusal(body).other_format == asks


def test_vectors_of_any_one_dimension_are_taken_where_it_is_not_known() -> None:
    assert parse({"data": [item(0)]}, TEXTS[:1], None).vectors.shape == (1, 2)
    vectors, unusable, _ = parse({"data": [item(0), item(1, [1.0])]}, TEXTS, None)
    assert (vectors.shape, unusable) == ((2, 2), {1: "the vector has 1 dimensions, not 2"})


@given(anything | st.fixed_dictionaries({"data": st.lists(items, max_size=3) | anything}))
def test_rubbish_is_refused_and_nothing_else(body: Any) -> None:
    try:
        vectors, unusable, _ = parse(body)
    except InvalidResponse:
        return
    assert vectors.shape == (2, 2)
    assert np.isfinite(vectors).all()
    assert len(unusable) < 2


@given(st.binary(max_size=50))
def test_bytes_that_are_not_json_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidResponse):
        responses.parse_response(b"{" + body, TEXTS, 2)
