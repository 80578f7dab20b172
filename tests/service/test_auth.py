"""Who may ask what, and how often."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.service.auth import Keys, is_loopback
from embeddings_pipeline.settings import Settings
from tests.support.answers import assert_problem
from tests.support.keys import KEYS, READ, WRITE, bearer, entry
from tests.support.serving import served
from tests.support.world import World


@pytest.fixture(scope="module")
def guarded(published: Database) -> Iterator[httpx.Client]:
    with served(published, search_api_keys=KEYS) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/search"),
        ("GET", "/search/item?q=a"),
        ("POST", "/search/item/image"),
        ("GET", "/similar/item/1"),
        ("GET", "/entities"),
        ("GET", "/stats"),
        ("GET", "/metrics"),
        ("POST", "/embed/text"),
        ("POST", "/embed/batch"),
        ("POST", "/embed/query"),
        ("GET", "/embed/models"),
        ("GET", "/embed/health"),
        ("GET", "/embed/metrics"),
        ("POST", "/embed/metrics/reset"),
        ("POST", "/entities/item/documents"),
        ("POST", "/mcp"),
    ],
)
@pytest.mark.parametrize("headers", [{}, bearer("a wrong key"), {"X-API-Key": READ[:-1]}])
def test_without_the_right_key_nothing_is_answered(
    guarded: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = guarded.request(method, path, headers=headers, json={})
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/openapi.json"])
def test_the_page_the_probes_and_the_document_need_no_key(guarded: httpx.Client, path: str) -> None:
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize("headers", [bearer(READ), {"X-API-Key": READ}, bearer(WRITE)])
def test_any_key_reads(guarded: httpx.Client, headers: dict[str, str]) -> None:
    assert guarded.get("/search/item?q=red", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/embed/metrics/reset", "/entities/item/documents"])
def test_only_a_write_key_writes(guarded: httpx.Client, path: str) -> None:
    body = {"ids": ["1"]}
    assert_problem(guarded.post(path, headers=bearer(READ), json=body), 403)
    assert guarded.post(path, headers=bearer(WRITE), json=body).status_code == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_back(shop: World) -> None:
    with served(shop.database, search_api_keys=KEYS, search_requests_per_minute=3) as client:
        for _ in range(3):
            assert client.get("/entities", headers=bearer(READ)).status_code == 200
        refused = client.get("/entities", headers=bearer(READ))
        assert_problem(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        # the other key has a rate of its own
        assert client.get("/entities", headers=bearer(WRITE)).status_code == 200


def test_a_call_that_no_minute_has_room_for_is_refused_for_good(shop: World) -> None:
    searches = {"searches": [{"entity": "item", "query": "red"}] * 4}
    texts = {"model": "fake/words", "input": ["red"] * 257}
    with served(
        shop.database,
        search_api_keys=KEYS,
        search_requests_per_minute=3,
        search_texts_per_minute=256,
    ) as client:
        many = client.post("/searches", json=searches, headers=bearer(READ))
        long = client.post("/v1/embeddings", json=texts, headers=bearer(READ))
    refusal = assert_problem(many, 422)
    assert refusal == "4 searches exceed the limit of 3 a minute: send fewer"
    assert long.status_code == 422
    assert "257 texts exceed the limit of 256 a minute" in long.json()["error"]["message"]


def test_keys_are_never_written_to_the_log(
    guarded: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        guarded.get("/entities", headers=bearer(READ))
        guarded.get("/entities", headers=bearer("a wrong key"))
    assert READ not in caplog.text
    assert "a wrong key" not in caplog.text


def test_without_keys_only_names_of_this_machine_are_answered(client: httpx.Client) -> None:
    # a page whose name was made to resolve to this machine
    answer = client.get("/entities", headers={"Host": "evil.example"})
    assert_problem(answer, 403)
    assert client.get("/entities", headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        "secret",
        "a:read:secret",
        f"a:admin:{'0' * 64}",
        f"a b:read:{'0' * 64}",
        f"a:read:{'0' * 64},",
    ],
)
def test_an_entry_that_is_no_key_is_named_by_its_number_alone(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"SEARCH_API_KEYS: entry \d") as error:
        Keys(Settings(_env_file=None, search_api_keys=given))
    assert "secret" not in str(error.value)


def test_two_keys_of_one_name_are_refused() -> None:
    twice = f"{entry('a', 'read', 'x')},{entry('a', 'write', 'y')}"
    with pytest.raises(ConfigurationError, match="the same name"):
        Keys(Settings(_env_file=None, search_api_keys=twice))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_addresses_of_this_machine_are_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
