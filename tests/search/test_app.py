"""Searches and what surrounds them, asked of the real service over HTTP."""

from __future__ import annotations

import httpx


def test_a_search_finds_what_shares_words_with_the_query(client: httpx.Client) -> None:
    answer = client.post("/search", json={"entity": "item", "query": "red boots", "top_k": 2})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [hit["id"] for hit in found["results"]] == ["4", "1"]
    print(found)
