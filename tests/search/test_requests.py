"""Valid requests, the bounds of their fields, and the errors of invalid ones."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.requests import SearchRequest

NAUGHTY = Path(__file__).parent.parent / "data" / "blns.txt"


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        SearchRequest.of(**{"entity": "item", "query": "pump"} | values)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"query": ""}, "query: is blank"),
        ({"query": " \n\t"}, "query: is blank"),
        ({"query": "x" * 8193}, "query: String should have at most 8192 characters"),
        ({"query": "a\0b"}, "query: contains a NUL"),
        ({"query": "\ud800"}, "query: "),
        ({"entity": "it\0em"}, "entity: contains a NUL"),
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"top_k": 1001}, "top_k: Input should be less than or equal to 1000"),
        ({"mode": "fuzzy"}, "mode: Input should be 'dense', 'text' or 'hybrid'"),
        ({"filters": {"a": list(range(1001))}}, "filters.a"),
        ({"filters": {"a": []}}, "filters.a"),
        (
            {"filters": {"a": {"colour": "red"}}},
            "filter 'a' has no operator 'colour' (operators: gt, gte, lt, lte, has, has_any,"
            " has_all); a jsonb column is compared with a whole value as text",
        ),
        ({"filters": {"not": {"a": {"like": "x"}}}}, "filter 'a' has no operator 'like'"),
        ({"filters": {"a": {}}}, "write one of gt, gte, lt, lte, has, has_any, has_all"),
        ({"filters": {"a": {"has_any": []}}}, "filters.a"),
        ({"filters": {"a": {"has_all": [None]}}}, "filters.a"),
        ({"filters": {"a": "x\0"}}, "filters.a"),
        ({"filters": {"a": float("nan")}}, "filters.a"),
        ({"filters": {"a": 10**1024}}, "should have at most 1024 digits"),
        ({"filters": {f"f{n}": 1 for n in range(21)}}, "filters: "),
        ({"min_similarity": float("inf")}, "min_similarity: "),
        ({"colour": "red"}, "colour: is unknown (fields: entity, filters, total"),
        ({"sort": {"by": "a", "up": True}}, "sort.up: is unknown (fields: by, order, among)"),
        ({"sort": "price"}, 'sort: should be an object like {"by": "price", "order": "desc"}'),
        ({"filters": "a=b"}, 'filters: should be an object like {"category": "lamp"}'),
        ({"histograms": ["price"]}, 'histograms.0: should be an object like {"column": "price"'),
        ({"facets": "shelf"}, "facets: should be a list"),
        ({"facets": ["a"] * 11}, "facets: should have at most 10 items, not 11"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], says: str) -> None:
    assert says in refusal(**values)


@pytest.mark.parametrize(
    "condition",
    [
        date(2026, 1, 31),
        {"gte": date(2026, 1, 31)},
        [{"colour": "red"}],
        {"has": ["x"]},
        [],
    ],
)
def test_a_condition_that_no_filter_takes_has_one_reason(condition: Any) -> None:
    said = refusal(filters={"a": condition})
    assert said.startswith("search: filters.a: write a text of at most 1,024 characters, a finite")
    assert said.endswith("""(gt, gte, lt, lte, has, has_any, has_all); a date is a text like\
 '2026-01-31', and a jsonb value one like '{"colour": "red"}'""")


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_only_similarities_have_a_threshold(mode: str) -> None:
    said = refusal(mode=mode, min_similarity=0.5)
    assert said.startswith("search: min_similarity and max_distance apply only to mode dense")
    assert said.endswith(f"the scores of mode {mode} have no threshold")


def test_filters_are_read_from_json() -> None:
    filters = json.loads(
        '{"a": "x", "b": [1, null, true], "c": {"gte": 1, "lt": 5.5}, "d": null, "e": false,'
        ' "f": {"has": "x", "has_any": [1, 2]}}'
    )
    nested = {**filters, "or": [filters, {"not": filters}]}
    read = SearchRequest.of(entity="item", query="q", filters=nested).filters
    plain = {
        "a": "x",
        "b": (1, None, True),
        "c": {"gte": 1, "lt": 5.5},
        "d": None,
        "e": False,
        "f": {"has": "x", "has_any": (1, 2)},
    }
    assert read.plain() == {**plain, "or": [plain, {"not": plain}]}


def test_any_text_that_can_be_stored_can_be_asked() -> None:
    lines = [line for line in NAUGHTY.read_text().splitlines() if line.strip()]
    asked = [SearchRequest.of(entity="item", query=line).query for line in lines]
    assert asked == lines
    assert len(lines) > 400
