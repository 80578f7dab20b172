"""Whatever goes wrong comes as a problem (RFC 9457), and tells nothing of the inside."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from select import select
from typing import Any

import httpx
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.service import middleware
from embeddings_pipeline.service.middleware import MAX_BODY_BYTES
from tests.support.answers import assert_problem
from tests.support.serving import served
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import World

SEARCH = {"entity": "item", "query": "red"}


@pytest.fixture(scope="module")
def client(published: Database) -> Iterator[httpx.Client]:
    """One service for all that is refused."""
    with served(published) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/nowhere", None, 404, ""),
        ("DELETE", "/search", None, 405, ""),
        ("POST", "/search", {"entity": "none", "query": "a"}, 404, "item"),
        ("GET", "/search/none?q=a", None, 404, "item"),
        ("GET", "/similar/none/1", None, 404, "item"),
        ("GET", "/similar/item/77", None, 404, "77"),
        ("GET", "/similar/item/abc", None, 422, "bigint"),
        ("POST", "/entities/none/documents", {"ids": ["1"]}, 404, "item"),
        ("POST", "/search", {}, 422, "body.entity"),
        ("POST", "/search", {"entity": "item"}, 422, "query or vector is missing"),
        ("POST", "/search", {**SEARCH, "offset": 999, "top_k": 2}, 422, "offset and top_k"),
        ("POST", "/search", {**SEARCH, "vector": [1.0]}, 422, "vector has 1 numbers"),
        ("POST", "/search", {**SEARCH, "facets": ["size"]}, 422, "facet 'size'"),
        ("POST", "/search", {**SEARCH, "sort": {"by": "size"}}, 422, "sort: 'size'"),
        ("POST", "/search", {**SEARCH, "filters": {"or": []}}, 422, "body.filters.or"),
        ("POST", "/search", {**SEARCH, "filters": "red"}, 422, "should be an object like {"),
        ("GET", "/entities/item/rows", None, 422, "query.id"),
        ("GET", "/entities/item/rows?id=x", None, 422, "bigint"),
        ("GET", "/entities/none/rows?id=1", None, 404, "item"),
        ("POST", "/searches", {"searches": []}, 422, "body.searches"),
        ("POST", "/search", {**SEARCH, "query": " "}, 422, "blank"),
        ("POST", "/search", {**SEARCH, "query": "x" * 8193}, 422, "8192"),
        ("POST", "/search", {**SEARCH, "top_k": 0}, 422, "body.top_k"),
        ("POST", "/search", {**SEARCH, "top_k": 1001}, 422, "body.top_k"),
        ("POST", "/search", {**SEARCH, "mode": "magic"}, 422, "body.mode"),
        ("POST", "/search", {**SEARCH, "limit": 3}, 422, "body.limit: is unknown (fields: entity"),
        (
            "POST",
            "/embed/text",
            {"txt": "a"},
            422,
            "body.txt: is unknown (fields: model, dimension",
        ),
        ("POST", "/search", {**SEARCH, "filters": {"colour": "red"}}, 422, "category"),
        ("POST", "/search", {**SEARCH, "filters": {"price": "cheap"}}, 422, "double"),
        ("POST", "/search", {**SEARCH, "columns": ["secret"]}, 422, "columns"),
        ("POST", "/search", {**SEARCH, "mode": "text", "min_similarity": 1}, 422, "text"),
        ("GET", "/search/item?q=a&filters=[1]", None, 422, "filters"),
        ("GET", "/search/item?q=a&filters={", None, 422, "filters"),
        ("GET", "/search/item?q=a&top_k=x", None, 422, "top_k"),
        (
            "GET",
            "/search/item?q=a&filter={}",
            None,
            422,
            "'filter' is unknown (parameters: q, mode",
        ),
        ("GET", "/similar/item/1?mode=text", None, 422, "'mode' is unknown (parameters: top_k"),
        ("POST", "/embed/text", {"text": ""}, 422, "body.text"),
        ("POST", "/embed/text", {"text": "x" * 32_769}, 422, "32768"),
        (
            "POST",
            "/embed/text",
            {"text": "a", "model": "other/model"},
            404,
            "'other/model' is not served",
        ),
        ("POST", "/embed/batch", {"texts": []}, 422, "body.texts"),
        ("POST", "/embed/batch", {"texts": ["a"] * 257}, 422, "256"),
        ("POST", "/entities/item/documents", {"ids": []}, 422, "body.ids"),
        ("POST", "/entities/item/documents", {"ids": [True]}, 422, "body.ids.0: write an id as a"),
        ("POST", "/entities/item/documents", {"ids": ["1"] * 1001}, 422, "1000"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(
    client: httpx.Client, method: str, path: str, body: Any, status: int, said: str
) -> None:
    assert said in assert_problem(client.request(method, path, json=body), status)


@pytest.mark.parametrize(
    ("path", "where"), [("/search", "at character 1"), ("/embed/batch", "at line 1 column 2")]
)
def test_where_a_body_is_no_json_is_told(client: httpx.Client, path: str, where: str) -> None:
    answer = client.post(path, content=b"{'a'", headers={"Content-Type": "application/json"})
    said = assert_problem(answer, 422)
    assert (said.startswith("body: is not JSON: "), said.endswith(where)) == (True, True)


def test_a_list_with_a_wrong_item_is_not_called_too_short(client: httpx.Client) -> None:
    answer = client.post("/searches", json={"searches": [{**SEARCH, "query": " "}]})
    assert assert_problem(answer, 422) == "body.searches.0.query: is blank: write a text"


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000])
def test_a_body_that_is_no_json_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


def test_a_body_past_the_limit_is_refused_before_it_is_read(client: httpx.Client) -> None:
    said = client.post("/search", content=b"x" * (MAX_BODY_BYTES + 1))
    assert_problem(said, 413)


def test_a_body_that_does_not_say_its_length_is_counted_as_it_comes(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 50 * MAX_BODY_BYTES:
            sent += 65_536
            yield b" " * 65_536

    try:
        answer = client.post(
            "/search", content=endless(), headers={"Content-Type": "application/json"}
        )
    except httpx.WriteError:
        # the service has hung up in the meantime
        pass
    else:
        assert_problem(answer, 413)
    assert sent < 50 * MAX_BODY_BYTES


def test_a_body_that_comes_drop_by_drop_is_given_up(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.5)
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=30) as line:
        line.sendall(
            b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        # an answer, or the next drop
        drops = 0
        while not select([line], [], [], 0.1)[0] and drops < 1000:
            line.sendall(b" ")
            drops += 1
        assert line.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_what_is_not_expected_is_logged_and_not_told(
    shop: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(texts: Any) -> None:
        raise ZeroDivisionError("the secret of the inside")

    with served(shop.database, Failing(fail)) as client, caplog.at_level(logging.ERROR):
        answer = client.post("/search", json=SEARCH)
        assert "secret" not in assert_problem(answer, 500)
        assert client.post("/search", json={**SEARCH, "mode": "text"}).status_code == 200
    assert answer.json()["request_id"] in caplog.text
    assert "the secret of the inside" in caplog.text


class Failing(WordsEncoder):
    """Fails on queries."""

    def __init__(self, fail: Any) -> None:
        super().__init__(WORDS)
        self.fail = fail

    def encode_query(self, texts: Any) -> Any:
        self.fail(texts)


def test_an_entity_that_is_not_published_yet_needs_a_run(world: World) -> None:
    world.table("id bigint, name text")
    world.texts(world.declare())
    with served(world.database) as client:
        answer = client.post("/search", json=SEARCH)
        assert "nothing is published yet" in assert_problem(answer, 409)
        answer = client.post("/entities/item/documents", json={"ids": ["1"]})
        assert "run `embeddings-pipeline run item`" in assert_problem(answer, 409)


def test_a_model_that_is_gone_makes_vectors_unavailable_and_words_still_found(shop: World) -> None:
    with served(shop.database, embedding_model="another/model") as client:
        assert_problem(client.post("/search", json=SEARCH), 503)
        assert client.post("/search", json={**SEARCH, "mode": "text"}).status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.get("/embed/health").status_code == 503
