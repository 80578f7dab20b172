"""Whatever is sent, an answer comes, and it is no failure of the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok

pytestmark = pytest.mark.long

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NAUGHTY = [
    line
    for line in (Path(__file__).parent.parent / "data" / "blns.txt")
    .read_text(encoding="utf-8")
    .splitlines()
    if line and not line.startswith("#")
]
BROKEN = ["\0", "a\0b", "\ud800", "a\udfffb", "\x1b[31m", "\u202e", "x" * 100_000, "%00", "%s{0}$1"]


@pytest.fixture
def fields() -> list[tuple[str, str, Any]]:
    """(method, path, body) with {} where something can be put."""
    return [
        ("POST", "/search", {"entity": "item", "query": "{}"}),
        ("POST", "/search", {"entity": "item", "query": "{}", "mode": "hybrid"}),
        ("POST", "/search", {"entity": "{}", "query": "a"}),
        ("POST", "/search", {"entity": "item", "query": "a", "mode": "{}"}),
        ("POST", "/search", {"entity": "item", "query": "a", "rerank": "{}"}),
        ("POST", "/search", {"entity": "item", "query": "a", "columns": ["{}"]}),
        ("POST", "/search", {"entity": "item", "query": "a", "filters": {"category": "{}"}}),
        ("POST", "/search", {"entity": "item", "query": "a", "filters": {"price": ["{}"]}}),
        ("POST", "/search", {"entity": "item", "query": "a", "filters": {"price": {"gt": "{}"}}}),
        ("POST", "/search", {"entity": "item", "query": "a", "filters": {"{}": "a"}}),
        ("POST", "/search", {"{}": "a"}),
        ("POST", "/embed/text", {"text": "{}"}),
        ("POST", "/embed/query", {"text": "{}"}),
        ("POST", "/embed/batch", {"texts": ["{}", "a"]}),
        ("POST", "/embed/text", {"text": "a", "model": "{}"}),
        ("POST", "/v1/embeddings", {"model": "fake/words", "input": ["{}", "a"]}),
        ("POST", "/v1/embeddings", {"model": "{}", "input": "a"}),
        ("POST", "/entities/item/documents", {"ids": ["{}"]}),
        ("POST", "/entities/{}/documents", {"ids": ["1"]}),
        ("GET", "/search/{}?q=a", None),
        ("GET", "/search/item?q={}", None),
        ("GET", "/search/item?q=a&filters={}", None),
        ("GET", "/search/item?q=a&columns={}", None),
        ("GET", "/similar/item/{}", None),
        ("GET", "/similar/{}/1", None),
        ("GET", "/{}", None),
    ]


def put(value: Any, text: str) -> Any:
    """The value with the text in each place for it."""
    if isinstance(value, dict):
        return {put(key, text): put(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [put(inner, text) for inner in value]
    return value.replace("{}", text) if isinstance(value, str) else value


@pytest.mark.parametrize("part", range(4))
def test_naughty_strings_in_every_field_fail_nothing(
    client: httpx.Client, fields: list[tuple[str, str, Any]], part: int
) -> None:
    for number, text in enumerate((BROKEN + NAUGHTY)[part::4]):
        # the worst in every field, each of the others in some
        chosen = fields if text in BROKEN else fields[number % 8 :: 8]
        for method, path, body in chosen:
            escaped = quote(text.encode("utf-8", "surrogatepass")[:4000], safe="")
            answer = client.request(
                method,
                path.replace("{}", escaped),
                content=None if body is None else json.dumps(put(body, text)),
                headers={} if body is None else {"Content-Type": "application/json"},
            )
            assert answer.status_code < 500, (method, path, body, text, answer.text)
            if answer.status_code >= 400:
                error = answer.json()
                assert error["error"]["message"] if "error" in error else error["detail"]


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "a\udfffb"])
def test_what_postgres_cannot_store_is_the_callers_mistake(
    client: httpx.Client, fields: list[tuple[str, str, Any]], text: str
) -> None:
    for method, path, body in fields:
        if body is not None and "{}" not in path:
            answer = client.request(
                method,
                path,
                content=json.dumps(put(body, text)),
                headers={"Content-Type": "application/json"},
            )
            assert answer.status_code == 422, (path, body, answer.text)


# what uvicorn, and our limit, say of an address that is too long to be read
TOO_LONG = ("Invalid HTTP request received.", "The head of the request is too large.")


# the pool of the service draws pauses in its own thread, while a case is drawn here
@pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation_of_the_document_stands_what_a_fuzzer_sends(
    client: httpx.Client, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue

        @settings(max_examples=25, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers_as_documented(case: Case[Any]) -> None:
            # nothing hangs: this is far from what a timeout of the service is
            answer = case.call(timeout=30)
            if answer.text not in TOO_LONG:
                case.validate_response(answer, checks=CHECKS)

        answers_as_documented()
