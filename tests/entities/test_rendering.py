"""How a row becomes a text, and when two texts are the same to the model."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.entities.rendering import MAX_TEXT_BYTES, Rendered, render
from embeddings_pipeline.entities.template import template_columns
from embeddings_pipeline.errors import RowError
from tests.support.declared import declared

PLAIN = declared()
COLUMNS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True)
VALUES = st.none() | st.text(st.characters(codec="utf-8"), max_size=8)


def text_of(template: str, **row: str | None) -> str | None:
    entity = declared(template=template)
    rendered = render(entity, template_columns(template), row)
    return rendered and rendered.text


def weighted(weights: dict[str, float], **row: str | None) -> Rendered:
    rendered = render(declared(weights=weights), tuple(weights), row)
    assert rendered is not None
    return rendered


def test_fields_come_with_their_names_in_the_order_of_the_columns() -> None:
    row = {"price": "1250.00", "name": "Pump", "note": "unused"}
    assert render(PLAIN, ("name", "price"), row) == Rendered("name: Pump. price: 1250.00")
    assert render(PLAIN, ("price", "name"), row) == Rendered("price: 1250.00. name: Pump")


def test_nulls_and_empty_fields_are_left_out() -> None:
    row = {"a": None, "b": "", "c": " \t\n\u00a0\u3000", "d": "x"}
    assert render(PLAIN, ("a", "b", "c", "d"), row) == Rendered("d: x")


def test_a_row_without_any_value_has_no_text() -> None:
    row = {"a": None, "b": " "}
    assert render(PLAIN, ("a", "b"), row) is None
    assert text_of("{a} by {b}", **row) is None
    assert render(declared(weights={"a": 1, "b": 2}), ("a", "b"), row) is None


def test_space_around_a_value_is_not_part_of_it() -> None:
    padded = render(PLAIN, ("name",), {"name": "  red \n shoe\n"})
    assert padded == Rendered("name: red \n shoe")


def test_a_template_has_nothing_where_a_value_is_null() -> None:
    assert text_of("{title} by {creator}", title="Pump", creator="Ann") == "Pump by Ann"
    assert text_of("{title} by {creator}", title="Pump", creator=None) == "Pump by"
    assert text_of("{title} by {creator}", title=None, creator="Ann") == "by Ann"


def test_a_template_may_repeat_a_column_and_have_braces_of_its_own() -> None:
    assert text_of("{{{a}}} {a}", a="x") == "{x} x"
    assert template_columns("{b} {a} {b}") == ("b", "a")


def test_braces_and_percent_signs_in_values_stay() -> None:
    assert text_of("{a}", a="{b} {} {{ %s %(x)s {0}") == "{b} {} {{ %s %(x)s {0}"


@pytest.mark.parametrize(
    "column", ["self", "class", "from", "entity", "template", "values", "0", "a b", "é", "a-b", "_"]
)
def test_a_column_may_have_the_name_of_a_keyword(column: str) -> None:
    template = "<{" + column + "}>"
    assert template_columns(template) == (column,)
    rendered = render(declared(template=template), (column,), {column: "x"})
    assert rendered == Rendered("<x>")
    assert render(PLAIN, (column,), {column: "x"}) == Rendered(f"{column}: x")


def test_weighted_fields_are_parts_without_their_names() -> None:
    rendered = weighted({"name": 3, "note": 1, "gone": 2}, name="Pump", note="cheap", gone=None)
    assert rendered == Rendered("name: Pump. note: cheap", ("Pump", "cheap"), (3.0, 1.0))


def test_weights_that_differ_give_another_hash() -> None:
    row = {"name": "Pump", "note": "cheap"}
    three, two = weighted({"name": 3, "note": 1}, **row), weighted({"name": 2, "note": 1}, **row)
    plain = render(PLAIN, ("name", "note"), row)
    assert plain is not None
    assert three.text == two.text == plain.text
    assert len({three.text_hash, two.text_hash, plain.text_hash}) == 3
    assert weighted({"name": 3.0, "note": 1}, **row).text_hash == three.text_hash


def test_one_weighted_field_is_not_the_plain_text() -> None:
    assert weighted({"a": 1}, a="x").text_hash != Rendered("a: x").text_hash
    assert weighted({"a": 1}, a="x").text_hash != Rendered("x").text_hash


def test_equal_values_of_other_fields_are_the_same_parts() -> None:
    assert weighted({"a": 2}, a="x").text_hash == weighted({"b": 2}, b="x").text_hash


def test_parts_do_not_run_into_one_another() -> None:
    one = weighted({"a": 1, "b": 1}, a="x, y", b="z")
    other = weighted({"a": 1, "b": 1}, a="x", b="y, z")
    swapped = weighted({"a": 1, "b": 1}, a="z", b="x, y")
    assert len({one.text_hash, other.text_hash, swapped.text_hash}) == 3


def test_a_hash_stays_the_same_from_version_to_version() -> None:
    # stored hashes are compared with new ones: another encoding would embed every row again
    assert Rendered("Łódź: é").text_hash == sha256('["Łódź: é"]'.encode()).digest()[:16]
    weighted = Rendered("a: x. b: y", ("x", "y"), (2.0, 0.5))
    assert weighted.text_hash == sha256(b'[[2.0, "x"], [0.5, "y"]]').digest()[:16]


def test_a_text_of_the_largest_size_is_taken_and_a_byte_more_is_not() -> None:
    largest = "é" * (MAX_TEXT_BYTES // 2 - 2) + "x"
    rendered = render(PLAIN, ("a",), {"a": largest})
    assert rendered is not None
    assert len(rendered.text.encode()) == MAX_TEXT_BYTES
    with pytest.raises(RowError, match="the text has 1,048,577 bytes, more than 1,048,576"):
        render(PLAIN, ("a",), {"a": largest + "x"})


def test_a_template_that_repeats_a_value_past_the_size_is_refused() -> None:
    with pytest.raises(RowError):
        text_of("{a}" * 20, a="x" * (MAX_TEXT_BYTES // 19))


@given(COLUMNS.flatmap(lambda names: st.fixed_dictionaries(dict.fromkeys(names, VALUES))))
def test_the_text_is_the_fields_that_say_something_and_nothing_else(
    row: dict[str, str | None],
) -> None:
    rendered = render(PLAIN, tuple(row), row)
    present = {name: value.strip() for name, value in row.items() if value and value.strip()}
    if rendered is None:
        assert not present
    else:
        assert rendered.text == ". ".join(f"{name}: {value}" for name, value in present.items())


PARTS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=6),
        st.sampled_from([1.0, 2.0, 0.5]),
    ),
    min_size=1,
    max_size=3,
)


def _rendered(parts: list[tuple[str, float]], text: str) -> Rendered:
    return Rendered(text, tuple(p for p, _ in parts), tuple(w for _, w in parts))


@given(PARTS, PARTS)
def test_hashes_are_equal_where_parts_and_weights_are(
    one: list[tuple[str, float]], other: list[tuple[str, float]]
) -> None:
    equal = _rendered(one, "a").text_hash == _rendered(other, "b").text_hash
    assert equal == (one == other)


@given(PARTS, st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_weighted_text_never_meets_a_plain_one(parts: list[tuple[str, float]], text: str) -> None:
    plain = {Rendered(text).text_hash, Rendered(json.dumps(parts)).text_hash}
    assert _rendered(parts, text).text_hash not in plain
