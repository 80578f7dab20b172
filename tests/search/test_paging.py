"""Pages of a search hold each row once, also where rows say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.search.query_vectors import query_encoder
from embeddings_pipeline.search.requests import SearchRequest
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.sync.snapshot import export
from tests.search.conftest import Search
from tests.support.databases import Templates
from tests.support.world import SCHEMA, World

TEXTS = ("red pump", "blue pump", "pump of steel", "lamp")
ROWS = 300


@pytest.fixture(params=["none", "hnsw"])
def equal_rows(world: World, templates: Templates, request: pytest.FixtureRequest) -> World:
    """Three hundred rows with four texts."""
    templates.restore(world, publish_equal_rows, request.param)
    return world


def publish_equal_rows(world: World, index: str) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, TEXTS[n % 4]) for n in range(-100, ROWS - 100)))
    world.run(world.declare(template="{name}", index={"type": index}))


def assert_pages_are_parts_of_one_list(ids: Callable[..., list[str]], rows: int) -> None:
    whole = ids(top_k=rows)
    for size in (17, 40):
        pages = [ids(top_k=size, offset=offset) for offset in range(0, rows, size)]
        assert [row for page in pages for row in page][:rows] == whole
    assert len({*whole}) == rows


@pytest.mark.parametrize(
    ("mode", "rows"), [("dense", ROWS), ("text", 225), ("hybrid", ROWS), ("exact", ROWS)]
)
def test_pages_of_equal_rows_neither_repeat_nor_lose_one(
    equal_rows: World, search: Search, mode: str, rows: int
) -> None:
    keys: dict[str, Any] = {"exact": True} if mode == "exact" else {"mode": mode}
    assert_pages_are_parts_of_one_list(lambda **page: search.ids("pump", **keys, **page), rows)


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_equal_rows_come_in_the_order_of_their_ids(
    equal_rows: World, search: Search, mode: str
) -> None:
    red = [str(n) for n in range(-100, ROWS - 100) if n % 4 == 0]
    assert search.ids("red pump", mode=mode, top_k=20) == red[:20]


def test_pages_of_a_snapshot_neither_repeat_nor_lose_a_row(
    equal_rows: World, search: Search, tmp_path: Path
) -> None:
    export(equal_rows.postgres, SCHEMA, "item", tmp_path)
    encode = query_encoder(equal_rows.encoders)
    with Snapshot(tmp_path, equal_rows.settings, encode) as snapshot:

        def ids(**page: Any) -> list[str]:
            request = SearchRequest.of(entity="item", query="red pump", **page)
            return [hit.id for hit in snapshot.search(request).results]

        assert_pages_are_parts_of_one_list(ids, ROWS)
        assert ids(top_k=20) == search.ids("red pump", top_k=20)


@pytest.mark.parametrize("chunk", [None, {"tokens": 16, "overlap": 0}])
def test_pages_of_a_fusion_follow_one_another_however_far_they_go(
    world: World, search: Search, chunk: dict[str, int] | None
) -> None:
    words = ("pump", "hose", "red", "blue", "steel", "glass", "night", "lamp")
    world.table("id bigint, name text")
    world.insert(
        *(
            (n, " ".join(words[n * step // 7 % 8] for step in range(1, 2 + n % 29)))
            for n in range(400)
        )
    )
    world.run(world.declare(template="{name}", **({"chunk": chunk} if chunk else {})))
    assert_pages_are_parts_of_one_list(
        lambda **page: search.ids("red pump", mode="hybrid", exact=True, **page), 280
    )
