"""A client that sends more work than the service can do stalls no other client."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any

import httpx
import pytest

from embeddings_pipeline.encoders.encoder import Encodings
from embeddings_pipeline.search.batching import BatchedEncoder
from embeddings_pipeline.service import models, queues
from embeddings_pipeline.service.queues import Queues
from tests.support.answers import assert_problem
from tests.support.keys import KEYS, READ, WRITE, bearer
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.words import WordsEncoder
from tests.support.world import World

LONG = "red boots " * 100
SEARCH = {"entity": "item", "query": "red boots", "mode": "text"}


class Held(WordsEncoder):
    """Waits in each batch of documents for `go_on`, and counts those that it began."""

    def __init__(self) -> None:
        super().__init__(before=self._wait)
        self.go_on = Event()
        self.began: list[int] = []

    def _wait(self, texts: Sequence[str]) -> None:
        self.began.append(len(texts))
        assert self.go_on.wait(60)


@pytest.fixture
def model() -> Held:
    return Held()


@contextmanager
def holding(shop: World, model: Held, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a service whose model waits until the end of the block, or for `go_on`."""
    with served(shop.database, model, **settings) as client:
        try:
            yield client
        finally:
            model.go_on.set()


@contextmanager
def abandoned(client: httpx.Client, count: int, path: str, body: Any) -> Iterator[None]:
    """Connections that have sent a request and read no answer, until the end of the block."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(count):
            line = stack.enter_context(socket.create_connection(address(client), timeout=60))
            line.sendall(head.encode() + content)
        yield


def address(client: httpx.Client) -> tuple[str, int]:
    assert client.base_url.port
    return client.base_url.host, client.base_url.port


def batch(*texts: str) -> dict[str, Any]:
    return {"texts": texts, "use_cache": False}


def openai_body(texts: str | list[str]) -> dict[str, Any]:
    return {"model": "fake/words", "input": texts, "input_type": "query"}


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets attributes of the queue of a service to be."""
    made = Queues.__init__

    def set_limits(name: str, **values: Any) -> None:
        def make(self: Queues) -> None:
            made(self)
            for attribute, value in values.items():
                setattr(getattr(self, name), attribute, value)

        monkeypatch.setattr(Queues, "__init__", make)

    monkeypatch.setattr(queues, "_REFUSAL_SECONDS", 0)
    return set_limits


def test_searches_state_and_health_do_not_wait_for_batches(shop: World, model: Held) -> None:
    with holding(shop, model) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        with abandoned(client, 40, "/embed/batch", batch(*[LONG] * 256)):
            until(lambda: model.began)
            for _ in range(3):
                assert client.post("/search", json=SEARCH).status_code == 200
                assert client.get("/stats").status_code == 200
                assert client.get("/entities").status_code == 200
                assert client.get("/metrics").status_code == 200
                assert client.get("/health/ready").status_code == 200
        # nothing of it has ended
        assert len(model.began) == 1


def test_a_query_is_encoded_before_the_next_slice_of_any_batch(
    shop: World, model: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    made: list[BatchedEncoder] = []

    class Noting(BatchedEncoder):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

        def encode_documents(self, texts: Sequence[str]) -> Encodings:
            batches.append(len(texts))
            return super().encode_documents(texts)

    began_before_the_query: list[int] = []
    encode_query = model.encode_query

    def noted(texts: Sequence[str]) -> Encodings:
        if [*texts] == ["garden hose"]:
            began_before_the_query.append(len(model.began))
        return encode_query(texts)

    monkeypatch.setattr(models, "BatchedEncoder", Noting)
    monkeypatch.setattr(model, "encode_query", noted)
    with holding(shop, model) as client, ThreadPoolExecutor(3) as threads:
        try:
            slow = [
                threads.submit(client.post, "/embed/batch", json=batch(*[LONG] * 20))
                for _ in range(2)
            ]
            until(lambda: model.began and len(batches) == 2)
            quick = threads.submit(client.post, "/embed/query", json={"text": "garden hose"})
            until(lambda: any(encoder._waiting for encoder in made))
        finally:
            model.go_on.set()
        assert quick.result().status_code == 200
        assert [len(answer.result().json()["embeddings"]) for answer in slow] == [20, 20]
    assert began_before_the_query == [1]
    assert max(model.began) < 10


def test_a_batch_of_queries_is_encoded_in_slices_too(shop: World) -> None:
    sizes: list[int] = []

    class Noting(WordsEncoder):
        def encode_query(self, texts: Sequence[str]) -> Encodings:
            sizes.append(len(texts))
            return super().encode_query(texts)

    with served(shop.database, Noting()) as client:
        answer = client.post("/embed/batch", json={**batch(*[LONG] * 20), "kind": "query"})
        assert len(answer.json()["embeddings"]) == 20
    assert max(sizes) < 10


def test_an_abandoned_batch_ends_and_one_that_waits_never_begins(shop: World, model: Held) -> None:
    with holding(shop, model) as client:
        with abandoned(client, 5, "/embed/batch", batch(*[LONG] * 256)):
            until(lambda: model.began)
        # a batch of a client that stays takes its turn after those that left
        with ThreadPoolExecutor(1) as threads:
            stays = threads.submit(client.post, "/embed/batch", json=batch("a", "b"), timeout=60)
            # so that the service has noticed that the others left
            assert client.post("/search", json=SEARCH).status_code == 200
            model.go_on.set()
            assert len(stays.result().json()["embeddings"]) == 2
        until(lambda: client.get("/embed/metrics").json()["generated"] >= 2)
        # a slice of each of the two that were at work, of 5 * 256 texts
        assert sum(model.began) < 256


def test_a_full_queue_refuses_and_says_when_to_come_back(
    shop: World, model: Held, limits: Callable[..., None]
) -> None:
    limits("batches", places=2)
    with (
        holding(shop, model) as client,
        abandoned(client, 2, "/embed/batch", batch(LONG)),
    ):
        until(lambda: model.began)
        answers = [client.post("/embed/batch", json=batch("a")) for _ in range(2)]
        assert "too many batches" in assert_problem(answers[-1], 503)
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        openai = client.post("/v1/embeddings", json=openai_body(["a", "b"]))
        assert openai.status_code == 503
        assert "too many batches" in openai.json()["error"]["message"]


def test_one_text_in_openais_form_is_a_search_and_several_are_a_batch(
    shop: World, limits: Callable[..., None]
) -> None:
    limits("queries", places=0)
    with served(shop.database) as client:
        refused = client.post("/v1/embeddings", json=openai_body("red"))
        assert "too many searches" in refused.json()["error"]["message"]
        assert client.post("/v1/embeddings", json=openai_body(["a", "b"])).status_code == 200


def test_a_search_of_an_agent_is_a_search(shop: World, limits: Callable[..., None]) -> None:
    limits("queries", places=0)
    with served(shop.database) as client:
        search = {"name": "search", "arguments": {"entity": "item", "query": "red"}}
        answer = client.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": search},
            headers={"Accept": "application/json"},
        )
        assert "too many searches" in answer.json()["result"]["content"][0]["text"]


def test_a_batch_without_a_turn_is_refused_in_time(
    shop: World, model: Held, limits: Callable[..., None]
) -> None:
    limits("batches", turn_seconds=1)
    with (
        holding(shop, model) as client,
        abandoned(client, 2, "/embed/batch", batch(LONG)),
    ):
        until(lambda: model.began)
        answer = client.post("/embed/batch", json=batch("a"))
        assert "was not answered in time" in assert_problem(answer, 503)
        assert answer.headers["retry-after"]


def test_an_answer_comes_in_time_even_if_the_work_does_not_end(
    shop: World, model: Held, limits: Callable[..., None]
) -> None:
    limits("batches", turn_seconds=1, seconds=2)
    with holding(shop, model) as client:
        answer = client.post("/embed/batch", json=batch(LONG))
        assert "was not answered in time" in assert_problem(answer, 503)
        assert len(model.began) == 1
        model.go_on.set()
        assert client.post("/embed/batch", json=batch("a")).status_code == 200


def test_one_key_leaves_half_of_a_queue_to_others(
    shop: World, model: Held, limits: Callable[..., None]
) -> None:
    limits("batches", places=4)
    with (
        holding(shop, model, search_api_keys=KEYS) as client,
        ThreadPoolExecutor(3) as some,
    ):

        def ask(key: str) -> httpx.Response:
            return client.post("/embed/batch", json=batch("a"), headers=bearer(key))

        try:
            first = [some.submit(ask, READ) for _ in range(2)]
            until(lambda: model.began)
            until(lambda: ask(READ).status_code == 429)
            refused = ask(READ)
            assert "key 'page' has 2 batches" in assert_problem(refused, 429)
            assert refused.headers["retry-after"]
            other = some.submit(ask, WRITE)
        finally:
            model.go_on.set()
        assert [answer.result().status_code for answer in (*first, other)] == [200] * 3


def test_a_batch_counts_as_many_texts_against_the_budget_of_its_key(shop: World) -> None:
    with served(shop.database, search_api_keys=KEYS, search_texts_per_minute=300) as client:

        def send(texts: int, key: str = READ) -> httpx.Response:
            body = {"texts": [f"text {n}" for n in range(texts)]}
            return client.post("/embed/batch", json=body, headers=bearer(key))

        assert send(256).status_code == 200
        refused = send(256)
        assert "SEARCH_TEXTS_PER_MINUTE" in assert_problem(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert send(40).status_code == 200
        # searches are no texts of a batch, and the other key has a budget of its own
        assert client.post("/search", json=SEARCH, headers=bearer(READ)).status_code == 200
        assert send(256, WRITE).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", ""])
def test_a_batch_of_another_content_type_is_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post(
        "/embed/batch", content=json.dumps(batch("a")), headers={"Content-Type": kind}
    )
    assert "application/json" in assert_problem(answer, 415)
