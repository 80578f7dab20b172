"""A declaration meets the columns that a staging model really has."""

from __future__ import annotations

import re
from hashlib import md5
from typing import Any

import pytest

from embeddings_pipeline.entities.fields import Source, bind
from embeddings_pipeline.errors import ConfigurationError
from tests.support.declared import declared

COLUMNS = {
    "product_id": "bigint",
    "name": "text",
    "price": "numeric(10,2)",
    "category": "character varying(20)",
    "is_removed": "boolean",
    "created_at": "timestamp(3) with time zone",
    "updated_at": "timestamp without time zone",
    "ingested_at": "date",
    "deleted": "boolean",
}
DAY = {"by": "day", "start": "2026-01-01"}


def bound(columns: dict[str, str] | None = None, **keys: Any) -> Source:
    return bind(declared(**keys), COLUMNS | (columns or {}))


def refusal(columns: dict[str, str] | None = None, **keys: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        bound(columns, **keys)
    message = str(error.value)
    assert message.startswith("entity 'product': ")
    return message.removeprefix("entity 'product': ")


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("id", {"id": "nosuch"}),
        ("include", {"include": ["name", "nosuch"]}),
        ("exclude", {"exclude": ["nosuch"]}),
        ("template", {"template": "{name} {nosuch}"}),
        ("weights", {"weights": {"name": 1, "nosuch": 2}}),
        ("filters", {"filters": ["nosuch"]}),
        ("deleted", {"deleted": "nosuch"}),
        ("changed_at", {"changed_at": "nosuch"}),
        ("image", {"image": "nosuch"}),
        ("partitions.column", {"partitions": DAY | {"column": "nosuch"}}),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_key_and_the_choices(
    key: str, keys: dict[str, Any]
) -> None:
    assert refusal(**keys) == (
        f"{key} column 'nosuch' is not in stg_product (columns: {', '.join(COLUMNS)})"
    )


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ("smallint", "bigint"),
        ("integer", "bigint"),
        ("bigint", "bigint"),
        ("uuid", "uuid"),
        ("text", "text"),
        ("character varying", "text"),
        ("character varying(36)", "text"),
    ],
)
def test_an_id_is_a_number_a_uuid_or_a_text(kind: str, ours: str) -> None:
    assert bound({"product_id": kind}).id_type == ours


@pytest.mark.parametrize("kind", ["numeric", "numeric(10,0)", "double precision", "date", "bytea"])
def test_an_id_of_another_type_is_refused(kind: str) -> None:
    assert refusal({"product_id": kind}) == (
        f"id 'product_id' is {kind}, not one of smallint, integer, bigint, uuid, text, character"
        " varying: cast it in the staging model"
    )


@pytest.mark.parametrize("kind", ["text", "integer", "bigint"])
def test_deleted_must_be_a_boolean(kind: str) -> None:
    assert refusal({"is_removed": kind}, deleted="is_removed") == (
        f"deleted 'is_removed' is {kind}, not boolean: cast it in the staging model"
    )


@pytest.mark.parametrize("column", ["created_at", "updated_at", "ingested_at"])
def test_times_of_every_kind_give_days_and_changes(column: str) -> None:
    bound(partitions=DAY | {"column": column}, changed_at=column)


@pytest.mark.parametrize("kind", ["text", "bigint", "time without time zone", "timestamp[]"])
def test_what_is_no_time_gives_neither_days_nor_changes(kind: str) -> None:
    columns = {"created_at": kind}
    message = (
        f"{kind}, not one of date, timestamp without time zone, timestamp with time zone: cast it"
        " in the staging model"
    )
    day = refusal(columns, partitions=DAY | {"column": "created_at"})
    assert day == f"partitions.column 'created_at' is {message}"
    assert refusal(columns, changed_at="created_at") == f"changed_at 'created_at' is {message}"


def test_the_default_text_leaves_out_the_id_and_the_bookkeeping() -> None:
    assert bound().text_columns == ("name", "price", "category", "is_removed")


def test_the_default_text_leaves_out_what_is_excluded_and_what_marks_deleted_rows() -> None:
    source = bound(exclude=["price"], deleted="is_removed")
    assert source.text_columns == ("name", "category")


def test_named_columns_are_the_text_in_their_order() -> None:
    assert bound(include=["price", "created_at", "name"]).text_columns == (
        "price",
        "created_at",
        "name",
    )
    assert bound(weights={"price": 1, "name": 2}).text_columns == ("price", "name")
    assert bound(template="{price} {name} {price}").text_columns == ("price", "name")


def test_a_text_of_no_column_is_refused() -> None:
    exclude = ["name", "price", "category", "is_removed"]
    assert refusal(exclude=exclude).startswith("no column of stg_product is left for the text: ")


def test_a_percent_sign_in_the_name_of_a_used_column_is_refused() -> None:
    message = "column 'off %' of stg_product has a % in its name: rename it in the staging model"
    assert refusal({"off %": "int"}).startswith(message)
    assert refusal({"off %": "int"}, include=["name"], filters=["off %"]).startswith(message)
    bound({"off %": "int"}, exclude=["off %"])


def test_filters_keep_their_types() -> None:
    assert bound(filters=["price", "category"]).filters == {
        "price": "numeric(10,2)",
        "category": "character varying(20)",
    }


BASE: dict[str, Any] = {"include": ["name", "price"], "filters": ["category"]}


@pytest.mark.parametrize(
    "keys",
    [
        {"include": ["price", "name"]},
        {"include": ["name"]},
        {"filters": []},
        {"filters": ["category", "is_removed"]},
        {"chunk": {"tokens": 64}},
        {"chunk": {"tokens": 64, "overlap": 8}},
        {"include": ["price"], "chunk": {"tokens": 64, "repeat": ["name"]}},
        {"changed_at": "updated_at"},
        {"partitions": DAY | {"column": "created_at"}},
        {"include": None, "template": "{name} {price}"},
        {"include": None, "weights": {"name": 1, "price": 1}},
        {"include": None, "weights": {"name": 2, "price": 1}},
    ],
    ids=str,
)
def test_what_decides_a_row_of_texts_moves_the_definition(keys: dict[str, Any]) -> None:
    assert bound(**BASE | keys).definition_hash != bound(**BASE).definition_hash


@pytest.mark.parametrize(
    "keys",
    [
        {"partitions": {"count": 32}},
        {"where": "true"},
        {"deleted": "is_removed"},
        {"model": "other/model", "dimension": 8, "storage": "halfvec", "metric": "l2"},
        {"index": "none", "schedule": "0 3 * * *", "limit": 5, "publish": "manual"},
        {"freshness": {"warn": "1h"}, "keep_sets": 3, "max_delete_share": 0.1},
    ],
    ids=str,
)
def test_what_does_not_decide_a_row_of_texts_leaves_the_definition(keys: dict[str, Any]) -> None:
    assert bound(**BASE | keys).definition_hash == bound(**BASE).definition_hash


def test_a_column_that_is_repeated_in_chunks_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match=r"chunk\.repeat column 'nosuch' is not in stg_pr"):
        bound(chunk={"tokens": 64, "repeat": ["nosuch"]})


def test_a_column_that_changes_its_type_moves_the_definition() -> None:
    base = bound(**BASE).definition_hash
    assert bound({"price": "text"}, **BASE).definition_hash != base
    assert bound({"category": "text"}, **BASE).definition_hash != base
    assert bound({"is_removed": "text"}, **BASE).definition_hash == base


@pytest.mark.parametrize(
    ("kind", "said", "printed"),
    [
        ("bigint", "7", "7"),
        ("bigint", " -007 ", "-7"),
        ("integer", "9223372036854775807", "9223372036854775807"),
        ("uuid", "0A0B0C0D-0000-1111-2222-333344445555", "0a0b0c0d-0000-1111-2222-333344445555"),
        ("text", " 007 ", " 007 "),
        ("text", "", ""),
    ],
)
def test_an_id_is_read_as_the_database_prints_it(kind: str, said: str, printed: str) -> None:
    assert bound({"product_id": kind}).canonical_ids([said, said]) == [printed, printed]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bigint", "seven"),
        ("bigint", "7.0"),
        ("bigint", ""),
        ("bigint", "9223372036854775808"),
        # read by int() and by UUID()
        ("bigint", "1_0"),
        ("bigint", "\u0661"),
        ("bigint", "\uff17"),
        ("bigint", "\u00a07"),
        ("bigint", "0x7"),
        ("uuid", "7"),
        ("uuid", f"urn:uuid:{'0' * 32}"),
        ("uuid", f"{'0' * 30}_0"),
        ("uuid", "\u0660" * 32),
        ("text", "a\0b"),
        ("text", "\udcff"),
        ("uuid", ""),
    ],
)
def test_a_value_that_is_no_id_of_the_entity_is_refused(kind: str, said: str) -> None:
    source = bound({"product_id": kind})
    with pytest.raises(
        ConfigurationError,
        match=re.escape(f"entity 'product': id {said!r} is not a {kind}, the type of product_id"),
    ):
        source.canonical_ids(["1" if kind == "bigint" else "0" * 32, said])


def test_an_id_of_a_million_digits_is_shown_in_part() -> None:
    with pytest.raises(ConfigurationError, match="is not a bigint") as refused:
        bound({"product_id": "bigint"}).canonical_ids(["9" * 1_000_000])
    assert len(str(refused.value)) < 300


def test_an_id_that_is_too_long_for_an_index_has_a_stand_in() -> None:
    source = bound({"product_id": "text"})
    assert source.canonical_ids(["é" * 1300]) == ["é" * 1300]
    too_long = "a\té\\" + "é" * 1300
    (found,) = source.canonical_ids([too_long])
    assert found == f"a{'?' * 59}... (md5 {md5(too_long.encode()).hexdigest()})"
    assert source.canonical_ids([found]) == [found]


@pytest.mark.parametrize("kind", ["text", "character varying", "character varying(300)", "bytea"])
def test_an_image_is_a_uri_or_bytes_and_the_only_column_that_is_used(kind: str) -> None:
    source = bound({"photo": kind}, image="photo", filters=["category"])
    assert source.text_columns == ("photo",)
    assert source.has_uris == (kind != "bytea")


def test_an_image_of_another_type_is_refused() -> None:
    assert refusal(image="price") == (
        "image 'price' is numeric(10,2), not one of bytea, text, character varying: cast it in the"
        " staging model"
    )


def test_another_image_column_renders_every_row_again() -> None:
    of_text = bound({"photo": "text"}, include=["photo"]).definition_hash
    of_image = bound({"photo": "text"}, image="photo").definition_hash
    of_bytes = bound({"photo": "bytea"}, image="photo").definition_hash
    assert len({of_text, of_image, of_bytes}) == 3


def test_a_text_is_nowhere_else() -> None:
    assert not bound().has_uris
