"""Valid declarations, and the errors of invalid ones."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from embeddings_pipeline.entities.entity import RESERVED_COLUMNS, Chunk, Entity, Index
from embeddings_pipeline.entities.partitions import DayPartitions, HashPartitions
from tests.support.declared import declared, refusal


def test_an_id_is_all_that_a_declaration_needs() -> None:
    entity = declared()
    assert (entity.name, entity.id, str(entity)) == ("product", "product_id", "product")
    assert (entity.partitions, entity.index) == (HashPartitions(count=8), Index(type="hnsw"))
    assert (entity.schedule, entity.publish, entity.keep_sets) == ("0 2 * * *", "auto", 1)
    assert (entity.freshness.warn, entity.freshness.fail) == (
        timedelta(hours=26),
        timedelta(hours=50),
    )


def test_an_entity_is_never_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        declared().name = "other"  # type: ignore[misc]


FULL: dict[str, Any] = {
    "weights": {"name": 3, "title": 1},
    "filters": ["category", "is_active"],
    "deleted": "is_removed",
    "where": "consent",
    "changed_at": "updated_at",
    "model": "some/model",
    "dimension": 256,
    "storage": "halfvec",
    "metric": "ip",
    "index": {"type": "ivfflat", "lists": 100, "recall": 0.9},
    "partitions": {"by": "day", "column": "created_at", "start": "2026-01-01", "lookback_days": 3},
    "schedule": "30 */6 * * mon-fri",
    "limit": 1000,
    "freshness": {"warn": "26h", "fail": "3d"},
    "publish": "manual",
    "keep_sets": 0,
    "max_delete_share": 1,
}


@pytest.mark.parametrize(
    "keys",
    [{}, FULL, {"chunk": {"tokens": 64, "overlap": 8}, "exclude": ["note"]}, {"image": "photo"}],
)
def test_an_entity_is_read_back_from_its_json(keys: dict[str, Any]) -> None:
    entity = declared(**keys)
    assert Entity.model_validate_json(entity.model_dump_json()) == entity
    assert entity.model_dump(mode="json")["freshness"]["warn"] == "93600s"


@pytest.mark.parametrize("name", ["p", "_p", "p2_x", "p" * 38])
def test_a_name_is_letters_digits_and_underscores(name: str) -> None:
    assert declared(entity=name).name == name
    assert declared(f"stg_{name}").name == name


@pytest.mark.parametrize("name", ["Product", "p" * 39, "2p", "p-x", "p x", "p.x", "", "é", "p\n"])
def test_a_name_that_no_table_can_have_is_refused(name: str) -> None:
    message = refusal(entity=name)
    assert message.startswith(f"entity is {name!r}: a name has lower-case letters, digits and _")
    assert "at most 38 characters" in message
    assert "set another with `entity:`" in refusal(f"stg_{name}")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"id": None}, "id is null: must be text"),
        ({"id": ""}, "id is '': must not be empty"),
        (
            {"id": ["order_id", "line"]},
            'id is ["order_id", "line"]: must be one column: for a key of several columns add one'
            " to the model, like order_id || '-' || line",
        ),
        ({"id": "x" * 64}, f"id is '{'x' * 64}': must have at most 63 characters"),
        ({"entity": None}, "entity is null: must be text"),
        ({"include": []}, "include is []: must not be empty"),
        ({"include": "name"}, "include is 'name': must be a list, like [a, b]"),
        ({"include": ["name", ""]}, "include.1 is '': must not be empty"),
        ({"filters": [5]}, "filters.0 is 5: must be text"),
        ({"weights": {}}, "weights is {}: must not be empty"),
        ({"weights": ["a"]}, 'weights is ["a"]: must be a mapping'),
        ({"weights": {"a": 0}}, "weights.a is 0: must be greater than 0"),
        ({"weights": {"day": -1}}, "weights.day is -1: must be greater than 0"),
        ({"weights": {"a": "much"}}, "weights.a is 'much': must be a number"),
        ({"weights": {"a": True}}, "weights.a is true: must be a number"),
        ({"weights": {"a": float("inf")}}, "weights.a is Infinity: must be a finite number"),
        ({"template": ""}, "template is '': names no column, like {title}"),
        ({"where": ""}, "where is '': must not be empty"),
        ({"where": True}, "where is true: must be text"),
        ({"model": ""}, "model is '': must not be empty"),
        ({"dimension": 0}, "dimension is 0: must be at least 1"),
        ({"dimension": 16001}, "dimension is 16001: must be at most 16000"),
        ({"storage": "bit"}, "storage is 'bit': must be 'vector' or 'halfvec'"),
        ({"metric": "cos"}, "metric is 'cos': must be 'cosine', 'l2' or 'ip'"),
        ({"limit": True}, "limit is true: must be a number"),
        ({"limit": 1.5}, "limit is 1.5: must be a whole number"),
        ({"limit": "all"}, "limit is 'all': must be a whole number"),
        ({"publish": False}, "publish is false: must be 'auto' or 'manual'"),
        ({"keep_sets": -1}, "keep_sets is -1: must be at least 0"),
        ({"max_delete_share": 2}, "max_delete_share is 2: must be at most 1"),
        ({"chunk": 256}, "chunk is 256: must be a mapping"),
        ({"chunk": {}}, "chunk.tokens is missing"),
        ({"chunk": {"tokens": 8}}, "chunk.tokens is 8: must be at least 16"),
        ({"chunk": {"tokens": 9000}}, "chunk.tokens is 9000: must be at most 8192"),
        (
            {"chunk": {"tokens": 32, "overlap": 17}},
            "chunk: overlap 17 is more than half of tokens 32",
        ),
        (
            {"chunk": {"tokens": 32, "stride": 3}},
            "chunk has no key 'stride' (keys: overlap, repeat, tokens)",
        ),
        ({"index": None}, "index is null: must be a mapping"),
        ({"index": "flat"}, "index.type is 'flat': must be 'hnsw', 'ivfflat' or 'none'"),
        ({"index": {"m": 1}}, "index.m is 1: must be at least 2"),
        ({"index": {"recall": 1.1}}, "index.recall is 1.1: must be at most 1"),
        (
            {"index": {"recal": 0.9}},
            "index has no key 'recal' (keys: ef_construction, lists, m, rebuild, recall, type)",
        ),
        ({"partitions": 8}, "partitions is 8: must be a mapping"),
        ({"partitions": {"count": 0}}, "partitions.count is 0: must be at least 1"),
        ({"partitions": {"count": 1025}}, "partitions.count is 1025: must be at most 1024"),
        ({"partitions": {"count": True}}, "partitions.count is true: must be a number"),
        (
            {"partitions": {"count": 4, "column": "day"}},
            "partitions has no key 'column' (keys: by, count)",
        ),
        (
            {"partitions": {"by": "day"}},
            "partitions.column is missing; meta.embedding.partitions.start is missing",
        ),
        (
            {"partitions": {"by": "day", "column": "d", "start": "2026-01-01", "count": 3}},
            "partitions has no key 'count' (keys: by, column, lookback_days, start)",
        ),
        ({"freshness": {"warm": "1h"}}, "freshness has no key 'warm' (keys: fail, warn)"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(keys: dict[str, Any], message: str) -> None:
    assert refusal(**keys) == message


@pytest.mark.parametrize("by", ["week", "", None, 5, ["day"], {"day": 1}])
def test_partitions_are_by_hash_or_by_day(by: object) -> None:
    assert refusal(partitions={"by": by}) == "partitions: by must be hash or day"


def test_partitions_are_by_hash_unless_said() -> None:
    assert declared(partitions={"count": 3}).partitions == HashPartitions(count=3)
    assert declared(partitions={}).partitions == HashPartitions()


@pytest.mark.parametrize("start", ["2026-01-01", date(2026, 1, 1)])
def test_days_start_on_a_day(start: object) -> None:
    partitions = declared(partitions={"by": "day", "column": "d", "start": start}).partitions
    assert partitions == DayPartitions(by="day", column="d", start=date(2026, 1, 1))


@pytest.mark.parametrize(
    "start", ["yesterday", 20260101, 0, "20260101", "2026-01-01T00:00:00", "1767225600", "", None]
)
def test_a_start_that_is_no_day_is_refused(start: object) -> None:
    message = refusal(partitions={"by": "day", "column": "d", "start": start})
    assert message.startswith("partitions.start is ")
    assert message.endswith(": write a day like 2026-01-01")


def test_a_start_that_no_calendar_has_is_refused() -> None:
    message = refusal(partitions={"by": "day", "column": "d", "start": "2026-02-30"})
    assert message == "partitions.start is '2026-02-30': day is out of range for month"


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat", "none"])
def test_an_index_is_named_by_its_type_alone(kind: str) -> None:
    assert declared(index=kind).index == declared(index={"type": kind}).index
    assert declared(index=kind).index.type == kind


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"type": "ivfflat", "m": 4}, "m does not apply to ivfflat"),
        ({"type": "hnsw", "lists": 4}, "lists does not apply to hnsw"),
        ({"lists": 4}, "lists does not apply to hnsw"),
        (
            {"type": "none", "ef_construction": 64, "m": 4},
            "ef_construction, m does not apply to none",
        ),
        ({"m": 33}, "ef_construction must be at least twice m"),
    ],
)
def test_options_of_an_index_fit_its_type(index: dict[str, Any], message: str) -> None:
    assert refusal(index=index) == f"index: {message}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"include": ["a"], "template": "{b}"}, "include and template exclude one another"),
        ({"template": "{b}", "weights": {"a": 1}}, "template and weights exclude one another"),
        ({"include": ["a"], "weights": {"a": 1}}, "include and weights exclude one another"),
        (
            {"exclude": ["a"], "include": ["b"]},
            "exclude goes with the default text, not with include",
        ),
        ({"weights": {"a": 1}, "chunk": {"tokens": 64}}, "weights and chunk exclude one another"),
        (
            {"image": "a", "include": ["b"]},
            "image and include exclude one another: a row has an image or a text",
        ),
        ({"image": "a", "template": "{b}"}, "image and template exclude one another"),
        ({"image": "a", "weights": {"b": 1}}, "image and weights exclude one another"),
        ({"image": "a", "exclude": ["b"]}, "image and exclude exclude one another"),
        ({"image": "a", "chunk": {"tokens": 64}}, "image and chunk exclude one another"),
    ],
)
def test_there_is_one_way_to_the_text(keys: dict[str, Any], message: str) -> None:
    assert message in refusal(**keys)


@pytest.mark.parametrize("column", sorted(RESERVED_COLUMNS))
def test_a_filter_or_an_id_does_not_take_the_name_of_our_own_column(column: str) -> None:
    assert f"filters {column}: " in refusal(filters=["brand", column])
    assert f"id {column!r}: the name is reserved" in refusal(id=column)


def test_the_id_is_no_filter() -> None:
    assert "filters product_id: " in refusal(filters=["product_id"])


@pytest.mark.parametrize("key", ["include", "exclude", "filters"])
def test_a_column_is_named_once(key: str) -> None:
    message = refusal(**{key: ["a", "b", "a"]})
    assert message == f"""{key} is ["a", "b", "a"]: 'a' appears twice"""


@pytest.mark.parametrize(
    "template",
    ["no column", "{}", "{a!r}", "{a:>9}", "{a.b}", "{a[0]}", "{a:{b}}", "{{a}}", "{a", "a}", "{"],
)
def test_a_template_that_is_more_than_columns_is_refused(template: str) -> None:
    assert refusal(template=template).startswith(f"template is {template!r}: ")


def test_an_overlap_of_half_a_chunk_is_the_most() -> None:
    assert declared(chunk={"tokens": 32, "overlap": 16}).chunk == Chunk(tokens=32, overlap=16)
