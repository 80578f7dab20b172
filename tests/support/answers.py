"""Searches over HTTP, and what their answers hold."""

from __future__ import annotations

from typing import Any

import httpx


def search(client: httpx.Client, query: str = "red boots", **more: Any) -> httpx.Response:
    return client.post("/search", json={"entity": "item", "query": query, **more})


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["results"]]


def assert_problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in body["detail"]
    detail: str = body["detail"]
    return detail
