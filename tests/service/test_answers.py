"""What a front end asks beside a plain search, over HTTP."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from jsonschema import Draft202012Validator

from embeddings_pipeline.database import Database
from tests.support.answers import assert_problem, ids, search
from tests.support.keys import KEYS, READ, bearer
from tests.support.serving import served
from tests.support.world import World


@pytest.fixture(scope="module")
def client(published: Database) -> Iterator[httpx.Client]:
    """One service for all that is only read."""
    with served(published) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_a_link_pages_sorts_counts_and_highlights_as_a_body_does(client: httpx.Client) -> None:
    link = client.get(
        "/search/item?q=garden lamp&mode=hybrid&top_k=2&offset=1&sort=price&order=desc&among=4"
        '&total=true&facets=category&highlight=true&vectors=true&filters={"not":{"price":90}}'
        '&facet_prefix=li&histograms=[{"column":"price","least":0,"most":50,"bars":2}]&spelling=true'
    )
    body = search(
        client,
        "garden lamp",
        mode="hybrid",
        top_k=2,
        offset=1,
        sort={"by": "price", "order": "desc", "among": 4},
        total=True,
        facets=["category"],
        highlight=True,
        vectors=True,
        filters={"not": {"price": 90}},
        facet_prefix="li",
        histograms=[{"column": "price", "least": 0, "most": 50, "bars": 2}],
        spelling=True,
    )
    assert ids(link) == ids(body) == ["2", "3"]
    assert link.json() == body.json()
    answer = link.json()
    assert answer["total"] == {"rows": 4, "exact": True}
    assert answer["facets"]["category"] == [{"value": "light", "count": 2}]
    assert answer["histograms"] == {"price": [1, 2]}
    assert answer["results"][1]["highlights"] == [[12, 18]]
    assert len(answer["results"][0]["vector"]) > 1


def test_rows_are_listed_in_order_and_counted(client: httpx.Client) -> None:
    body = {"entity": "item", "sort": {"by": "price"}, "top_k": 2, "total": True}
    first = client.post("/rows", json=body).json()
    assert [row["id"] for row in first["rows"]] == ["3", "2"]
    assert first["rows"][0]["texts"] == ["name: green garden hose"]
    assert first["total"] == {"rows": 5, "exact": True}
    second = client.post("/rows", json={**body, "after": "2"}).json()
    assert [row["id"] for row in second["rows"]] == ["1", "4"]
    wrong = client.post("/rows", json={**body, "after": "99"})
    assert wrong.status_code == 404
    assert wrong.json()["detail"] == "entity 'item': row '99' is gone: list from the start"
    link = client.get("/search/item?q=lamp&histograms={}")
    assert "histograms: not a JSON array" in link.json()["detail"]


def test_a_whole_number_in_a_filter_is_not_rounded(world: World) -> None:
    prices = (12345678901234567891, 12345678901234567168 + 1)
    world.table("id bigint, name text, price numeric")
    world.insert(*((n, "pump", price) for n, price in enumerate(prices)))
    world.run(world.declare(template="{name}", filters=["price"]))
    with served(world.database, world.encoder) as client:
        for n, price in enumerate(prices):
            answer = search(client, "pump", filters={"price": price})
            assert ids(answer) == [str(n)]
            # as text, since a client may read numbers as floats
            assert answer.json()["results"][0]["fields"] == {"price": str(price)}
        (entity,) = client.get("/entities").json()["entities"]
    assert {row["fields"]["price"] for row in entity["examples"]} == {*map(str, prices)}
    (column,) = entity["filters"]
    assert {value["value"] for value in column["values"]} == {*map(str, prices)}


def test_a_query_whose_words_no_row_has_is_told_from_one_that_is_found(
    client: httpx.Client,
) -> None:
    answer = search(client, "zzqxv", mode="hybrid").json()
    assert answer["words"] == {"zzqxv": 0}
    assert answer["best_similarity"] < 0.5


def test_several_searches_come_in_one_answer_and_one_that_fails_fails_alone(
    client: httpx.Client,
) -> None:
    asked = [
        {"entity": "item", "query": "garden hose", "top_k": 1},
        {"entity": "none", "query": "garden hose"},
        {"entity": "item", "query": "red boots", "mode": "text", "top_k": 1},
    ]
    answer = client.post("/searches", json={"searches": asked})
    first, wrong, last = answer.json()["results"]
    assert first["answer"]["results"][0]["id"] == "3"
    assert wrong["answer"] is None
    assert (wrong["problem"]["status"], last["problem"]) == (404, None)
    assert last["answer"]["results"][0]["id"] == "4"


def test_each_of_several_searches_counts_as_a_request(shop: World) -> None:
    one = {"entity": "item", "query": "lamp"}
    with served(shop.database, search_api_keys=KEYS, search_requests_per_minute=4) as client:
        three = {"searches": [one] * 3}
        assert client.post("/searches", json=three, headers=bearer(READ)).status_code == 200
        assert_problem(client.post("/searches", json=three, headers=bearer(READ)), 429)


def test_rows_come_by_any_id(world: World) -> None:
    odd = ["a/b", "..", ".", "a\nb", "a\tb ", "?&=#", "%2F", "\x1b[2J"]
    world.table("id text, name text")
    world.insert(*((row_id, f"lamp {n}") for n, row_id in enumerate(odd)))
    world.run(world.declare(template="{name}"))
    with served(world.database, world.encoder) as client:
        for n, row_id in enumerate(odd):
            path = f"/entities/item/rows?id={quote(row_id, safe='')}&id=none"
            answer = client.get(path).json()
            row = {"id": row_id, "texts": [f"lamp {n}"], "fields": {}}
            assert answer["rows"] == [{**row, "title": None, "url": None, "image_url": None}]
            assert answer["missing"] == ["none"]


def test_a_large_answer_is_compressed_where_the_client_reads_gzip(client: httpx.Client) -> None:
    large = {"entity": "item", "query": "lamp", "vectors": True}
    with client.stream("POST", "/search", json=large) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(b"".join(answer.iter_raw())))["entity"] == "item"
    plain = client.post("/search", json=large, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize("path", ["/health", "/metrics", "/entities", "/", "/search/item?q=lamp"])
def test_a_head_has_the_headers_and_no_body(client: httpx.Client, path: str) -> None:
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Type"] == client.get(path).headers["Content-Type"]


def test_a_path_that_does_not_exist_is_not_found_by_any_method(client: httpx.Client) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert_problem(client.request(method, "/nowhere"), 404)
    assert_problem(client.get("/embed/text"), 405)


@pytest.mark.parametrize(
    "path", ["/search", "/searches", "/embed/text", "/embed/query", "/entities/item/documents"]
)
def test_a_body_of_another_type_is_refused_with_the_type_to_send(
    client: httpx.Client, path: str
) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}):
        answer = client.post(path, content=b'{"entity": "item", "query": "a"}', headers=headers)
        assert "application/json" in assert_problem(answer, 415)


FOREIGN = [
    {"Origin": "https://other.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "https://page.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_changes_nothing(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    said = client.post("/embed/metrics/reset", headers={"Content-Type": "text/plain", **headers})
    assert "SEARCH_CORS_ORIGINS" in assert_problem(said, 403)


def test_the_own_page_and_named_sites_may_call(shop: World) -> None:
    named = "https://page.example"
    with served(shop.database, search_cors_origins=(named,)) as client:
        for headers in (
            {"Origin": str(client.base_url)},
            {"Origin": named},
            {"Origin": named, "Sec-Fetch-Site": "cross-site"},
            {"Origin": "https://proxied.example", "Sec-Fetch-Site": "same-origin"},
            {},
        ):
            assert client.post("/embed/metrics/reset", headers=headers).status_code == 200


def test_requests_and_errors_are_counted_by_operation(published: Database) -> None:
    with served(published) as client:
        search(client)
        search(client, top_k=0)
        client.post("/nowhere")
        metrics = client.get("/metrics").text
    for line in (
        'http_requests_total{operation="search",status="200"} 1.0',
        'http_requests_total{operation="search",status="422"} 1.0',
        'http_requests_total{operation="none",status="404"} 1.0',
        'http_request_seconds_count{operation="search"} 2.0',
        "process_resident_memory_bytes",
        "process_open_fds",
    ):
        assert line in metrics


def test_the_access_log_says_who_asked_what_but_not_which_words(
    shop: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served(shop.database) as client:
        client.get("/nowhere")
    assert accesses(caplog) == []
    with served(shop.database, search_api_keys=KEYS, search_access_log=True) as client:
        answer = client.get("/search/item?q=secret", headers=bearer(READ))
        client.get("/nowhere")
    found, lost = accesses(caplog)
    assert found.pop("seconds") > 0
    assert found == {
        "request_id": answer.headers["X-Request-ID"],
        "method": "GET",
        "path": "/search/item",
        "operation": "search_entity",
        "status": 200,
        "client": "127.0.0.1",
        "key": "page",
    }
    assert (lost["status"], lost["operation"], lost["key"]) == (404, "none", None)


def accesses(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(one)["fields"] for one in caplog.records if one.name.endswith(".access")]


def test_every_call_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(set(names)) == len(names)
    assert {"search", "search_entity", "searches", "similar", "rows", "entities"} <= {*names}
    assert all(name.isidentifier() for name in names)


def test_every_field_of_a_search_is_described_in_the_document(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("SearchRequest", "ListRequest"):
        assert all("description" in field for field in schemas[name]["properties"].values())


def test_every_example_of_the_document_is_what_it_says(document: dict[str, Any]) -> None:
    found = list(examples(document))
    assert {"search", "searches", "similar", "rows", "embed_batch"} <= {name for name, *_ in found}
    for name, schema, example in found:
        validator = Draft202012Validator({**schema, "components": document["components"]})
        assert [error.message for error in validator.iter_errors(example)] == [], (name, example)


@pytest.mark.parametrize(
    "condition",
    [
        *("red", 1.5, True, None, ["red", None], {"gt": 1}, {"gte": "a", "lt": "b"}),
        *({"has": "red"}, {"has_any": ["red"]}, {"has_all": ["red"]}, {"has": 1, "has_any": [2]}),
    ],
)
def test_a_condition_of_a_filter_is_of_one_type_in_the_document(
    document: dict[str, Any], condition: Any
) -> None:
    assert forms_of(condition, document) == 1


def test_null_is_no_type_of_its_own_among_the_types_of_a_condition(
    document: dict[str, Any],
) -> None:
    condition = document["components"]["schemas"]["Filters"]["additionalProperties"]
    (several,) = (form for form in condition["anyOf"] if form.get("type") == "array")
    # openapi-generator's client for Python could not be made
    for forms in (condition["anyOf"], several["items"]["anyOf"]):
        assert {"type": "null"} not in forms
        assert [form for form in forms if "null" in form.get("type", "")]


def test_a_condition_without_a_known_operator_is_of_no_type(document: dict[str, Any]) -> None:
    assert forms_of({}, document) == 0
    assert forms_of({"like": "x"}, document) == 0


def forms_of(condition: Any, document: dict[str, Any]) -> int:
    """How many types of a filter's condition a condition is of."""
    schemas = document["components"]["schemas"]
    forms = schemas["Filters"]["additionalProperties"]["anyOf"]
    objects = [form for form in forms if "$ref" in form]
    # a generated client would take the first object whose required fields are there
    assert len(objects) == 1
    valid = [Draft202012Validator({**form, "components": document["components"]}) for form in forms]
    return sum(validator.is_valid(condition) for validator in valid)


def examples(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(operation, schema, example) of each body that has examples, whole or of its fields."""
    for operations in document["paths"].values():
        for operation in operations.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for content in (body.get("content", {}).get("application/json") for body in bodies):
                if not content:
                    continue
                schema = content.get("schema", {})
                named = [one["value"] for one in content.get("examples", {}).values()]
                whole = [content["example"]] if "example" in content else []
                fields = document["components"]["schemas"].get(
                    schema.get("$ref", "").rpartition("/")[2], schema
                )
                for example in (*named, *whole, *schema.get("examples", ())):
                    yield operation["operationId"], schema, example
                for field in fields.get("properties", {}).values():
                    for example in field.get("examples", ()):
                        yield operation["operationId"], field, example
