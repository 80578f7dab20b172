"""Searches and the state of things, asked of the real service over HTTP."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.answers import ids, search
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.world import World


def test_a_search_finds_what_shares_words_with_the_query(client: httpx.Client) -> None:
    assert ids(search(client, top_k=2)) == ["4", "1"]


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_each_mode_answers(client: httpx.Client, mode: str) -> None:
    answer = search(client, "garden hose", mode=mode, top_k=1)
    assert ids(answer) == ["3"]
    assert answer.json()["mode"] == mode


def test_an_answer_says_what_was_searched_and_how_far_that_is(client: httpx.Client) -> None:
    answer = search(client, top_k=20).json()
    said = {name: value for name, value in answer.items() if name != "results"}
    assert 0 < said.pop("best_similarity") < 1
    assert said == {
        "entity": "item",
        "mode": "dense",
        "coverage": 100.0,
        "data_lag_seconds": 0.0,
        "model": "fake/words",
        "vector_set": 1,
        "shortfall": 15,
        "words": None,
        "total": None,
        "facets": None,
        "histograms": None,
        "suggestion": None,
    }
    hit = answer["results"][0]
    assert (hit["text"], hit["fields"]) == (
        "name: red boots of leather",
        {"category": "footwear", "price": 90.0},
    )


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"category": "light"}, {"2", "5"}),
        ({"category": ["light", "garden"]}, {"2", "3", "5"}),
        ({"price": {"gte": 25.5, "lt": 90}}, {"1", "2"}),
        ({"price": None}, {"5"}),
        ({"category": "light", "price": None}, {"5"}),
    ],
)
def test_filters_choose_rows_in_post_and_get_alike(
    client: httpx.Client, filters: dict[str, Any], found: set[str]
) -> None:
    assert set(ids(search(client, filters=filters))) == found
    by_get = client.get("/search/item", params={"q": "red", "filters": json.dumps(filters)})
    assert set(ids(by_get)) == found


def test_similar_rows_leave_out_the_row_itself(client: httpx.Client) -> None:
    assert ids(client.get("/similar/item/3", params={"top_k": 1})) == ["5"]


def test_similar_rows_come_for_any_id(world: World) -> None:
    row_ids = [
        "a\nb",
        "a\n",
        "\n",
        "a",
        "a/b",
        "a\tb ",
        "?&=#",
        "%2F",
        "%0A",
        "\x1b[2J",
        "..\\",
        "é日",
    ]
    world.table("id text, name text")
    world.insert(*[(row_id, "a lamp") for row_id in row_ids])
    world.run(world.declare(template="{name}"))
    with served(world.database, world.encoder) as client:
        for row_id in row_ids:
            path = f"/similar/item/{quote(row_id, safe='')}"
            similar = ids(client.get(path, params={"top_k": 20}))
            assert sorted([row_id, *similar]) == sorted(row_ids)


def test_columns_of_the_staging_model_come_along(client: httpx.Client) -> None:
    answer = search(client, columns=["name", "is_removed"], top_k=1).json()
    fields = answer["results"][0]["fields"]
    assert (fields["name"], fields["is_removed"]) == ("red boots of leather", False)


def test_entities_come_with_their_filters_and_facets(client: httpx.Client) -> None:
    (entity,) = client.get("/entities").json()["entities"]
    assert (entity["entity"], entity["model"], entity["metric"]) == ("item", "fake/words", "cosine")
    category, price = entity["filters"]
    assert category == {
        "name": "category",
        "type": "text",
        "values": [
            {"value": "footwear", "count": 2},
            {"value": "light", "count": 2},
            {"value": "garden", "count": 1},
        ],
        "histogram": None,
    }
    assert (price["type"], len(price["values"])) == ("double precision", 5)
    assert (price["histogram"]["least"], price["histogram"]["most"]) == (19.9, 90.0)
    assert sum(price["histogram"]["rows"]) == 4
    assert entity["fields"]["is_removed"] == "boolean"


def test_a_filter_of_many_values_has_no_facets(shop: World) -> None:
    shop.insert(*((100 + n, f"thing {n}", f"kind {n}", 1.0, False) for n in range(30)))
    shop.run(shop.declare(include=["name"], filters=["category", "price"], deleted="is_removed"))
    with served(shop.database) as client:
        category, price = client.get("/entities").json()["entities"][0]["filters"]
    assert category["values"] is None
    assert price["values"][0] == {"value": 1.0, "count": 30}


def test_stats_tell_how_far_an_entity_is(client: httpx.Client, shop: World) -> None:
    shop.insert((6, "new thing", "light", 1.0, False))
    shop.texts(shop.declare(include=["name"], filters=["category", "price"], deleted="is_removed"))
    (item,) = client.get("/stats").json()["entities"]
    assert (item["rows"], item["vectors"], item["pending"], item["quarantined"]) == (6, 5, 1, 0)
    assert item["coverage"] == pytest.approx(83.33)
    assert (item["model"], item["dimension"], item["vector_set"]) == ("fake/words", 64, 1)
    assert item["index"]["type"] == "hnsw"
    assert item["index"]["recall_at_10"] >= 0.99
    assert [run["read"] for run in item["runs"]] == [1, 5]
    assert item["last_run"] == item["runs"][0]
    assert item["runs"][1]["encoded"] == 5


def test_prometheus_is_told_of_searches_and_entities(client: httpx.Client) -> None:
    search(client)
    search(client)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    figures = dict(re.findall(r"^(\S+) (\S+)$", answer.text, re.MULTILINE))
    assert figures['search_seconds_count{entity="item",mode="dense"}'] == "2.0"
    assert figures['search_results_sum{entity="item",mode="dense"}'] == "10.0"
    assert figures['embedding_cache_hits_total{model="fake/words"}'] == "1.0"
    assert figures['embedding_cache_misses_total{model="fake/words"}'] == "1.0"
    assert figures['embedding_generation_seconds_count{kind="query",model="fake/words"}'] == "1.0"
    assert figures["database_up"] == "1.0"
    assert figures['entity_coverage_ratio{entity="item"}'] == "1.0"
    assert float(figures['entity_index_recall{entity="item"}']) >= 0.99
    for name in ("data_lag_seconds", "pending_chunks", "quarantined_rows", "run_cost_usd"):
        assert figures[f'entity_{name}{{entity="item"}}'] == "0.0"


def test_health_tells_live_from_ready(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"live": True}
    until(lambda: client.get("/health/ready").status_code == 200)
    health = client.get("/health").json()
    assert (health["live"], health["ready"]) == (True, True)
    assert [part["part"] for part in health["parts"]] == ["database", "model fake/words"]


def test_it_is_not_ready_before_something_is_published(world: World) -> None:
    with served(world.database) as client:
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        missing = [part["part"] for part in ready.json()["parts"] if not part["ready"]]
        assert missing == ["published vectors"]
        assert client.get("/health/live").status_code == 200


def test_it_works_without_a_dbt_project(shop: World, tmp_path: Path) -> None:
    with served(shop.database, dbt_project_dir=tmp_path / "none") as client:
        assert ids(search(client, top_k=1)) == ["4"]
        assert client.get("/stats").status_code == 200
        documents = client.post("/entities/item/documents", json={"ids": ["1"]})
        assert documents.json()["documents"][0]["status"] == "searchable"


def test_the_page_comes_with_headers_that_let_nothing_else_in(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_other_sites_may_not_ask_unless_they_are_named(shop: World) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    allowed = "access-control-allow-origin"
    with served(shop.database) as client:
        assert allowed not in client.options("/search", headers=asked).headers
    with served(shop.database, search_cors_origins=("https://shop.example",)) as client:
        answer = client.options("/search", headers=asked)
        assert answer.headers[allowed] == "https://shop.example"
        other = client.options("/search", headers={**asked, "Origin": "https://evil.example"})
        assert allowed not in other.headers


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/search", "x-api-key,content-type"),
        ("/mcp", "authorization,content-type,mcp-protocol-version,mcp-method,mcp-name"),
        ("/mcp", "mcp-session-id,last-event-id,mcp-param-entity"),
        ("/v1/embeddings", "authorization,content-type,openai-project,x-stainless-lang"),
        ("/search", "traceparent,tracestate"),
    ],
)
def test_a_page_of_a_named_site_may_send_the_headers_of_its_client(
    shop: World, path: str, sent: str
) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": sent,
    }
    with served(shop.database, search_cors_origins=("https://shop.example",)) as client:
        answer = client.options(path, headers=asked).raise_for_status()
        assert answer.headers["access-control-allow-headers"] == sent
        other = client.options(path, headers={**asked, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_a_re_ranker_that_is_not_named_in_the_settings_is_refused(client: httpx.Client) -> None:
    answer = search(client, rerank="some/model")
    assert answer.status_code == 422
    assert "some/model" in answer.json()["detail"]
