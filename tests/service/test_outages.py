"""The database goes and comes back under load: errors while it is away, answers afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import psycopg
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.answers import assert_problem
from tests.support.published_shop import publish_shop
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.world import world_in

SEARCH = {"entity": "item", "query": "red boots", "top_k": 2}


@pytest.fixture
def own(data_dir: Path) -> Database:
    """A server of the test's own, with a published entity."""
    database = embedded.start(data_dir)
    with psycopg.connect(database.url) as connection:
        connection.execute("create extension if not exists vector")
    with world_in(database) as world:
        publish_shop(world)
    return database


def right(client: httpx.Client) -> bool:
    answer = client.post("/search", json=SEARCH)
    return answer.status_code == 200 and [h["id"] for h in answer.json()["results"]] == ["4", "1"]


def test_searches_fail_while_the_database_is_away_and_work_when_it_is_back(
    own: Database, data_dir: Path
) -> None:
    with served(own) as client:
        done = Event()

        def ask() -> set[int]:
            seen = set()
            while not done.is_set():
                seen.add(client.post("/search", json=SEARCH).status_code)
            return seen

        with ThreadPoolExecutor(4) as threads:
            load = [threads.submit(ask) for _ in range(4)]
            until(lambda: right(client))
            embedded.stop(data_dir)
            answer = client.post("/search", json=SEARCH)
            assert "again later" in assert_problem(answer, 503)
            assert answer.headers["retry-after"]
            ready = client.get("/health/ready")
            assert (ready.status_code, ready.json()["parts"][0]["part"]) == (503, "database")
            assert client.get("/health/live").status_code == 200
            assert "database_up 0.0" in client.get("/metrics").text
            assert client.post("/embed/text", json={"text": "red"}).status_code == 200
            assert embedded.start(data_dir) == own
            until(lambda: right(client))
            done.set()
            assert {status for one in load for status in one.result()} == {200, 503}
        until(lambda: client.get("/health/ready").status_code == 200)


def test_a_service_that_starts_before_its_database_finds_it_later(
    own: Database, data_dir: Path
) -> None:
    embedded.stop(data_dir)
    with served(own) as client:
        assert_problem(client.post("/search", json=SEARCH), 503)
        assert_problem(client.get("/stats"), 503)
        assert client.get("/health/ready").status_code == 503
        assert embedded.start(data_dir) == own
        until(lambda: right(client))
        until(lambda: client.get("/health/ready").status_code == 200)


def test_a_search_that_takes_too_long_is_ended(
    own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings_pipeline.search.searcher.STATEMENT_SECONDS", 0.2)
    with served(own) as client, psycopg.connect(own.url) as connection:
        assert right(client)
        # whoever reads the table waits for this
        connection.execute("lock table analytics_features.item_vectors_1")
        assert_problem(client.post("/search", json=SEARCH), 503)
        connection.rollback()
        assert right(client)


def test_a_redis_that_is_away_changes_nothing(own: Database) -> None:
    with served(own, embedding_redis_url="redis://127.0.0.1:1/0") as client:
        assert right(client)
        assert client.post("/embed/text", json={"text": "red"}).status_code == 200
