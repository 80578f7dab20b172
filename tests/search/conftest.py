"""A searcher over the test's own world, and the service over a published entity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from playwright.sync_api import Browser, Page

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import Answer, SearchRequest, SimilarRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.settings import Settings
from tests.search.browser import chromium
from tests.search.browser import opened as opened_page
from tests.search.serving import served
from tests.world import SCHEMA, World

ROWS = [
    (1, "red shoe", "footwear", 40.0),
    (2, "blue lamp", "light", 25.5),
    (3, "green garden hose", "garden", 19.9),
    (4, "red boots of leather", "footwear", 90.0),
    (5, "garden lamp", "light", None),
]


class Search:
    """Asks a searcher in few words; ids come as they are ranked."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher

    def answer(self, query: str, **keys: Any) -> Answer:
        return self.searcher.search(SearchRequest.of(**{"entity": "item", "query": query} | keys))

    def ids(self, query: str, **keys: Any) -> list[str]:
        return [hit.id for hit in self.answer(query, **keys).results]

    def similar(self, row_id: str, **keys: Any) -> list[str]:
        request = SimilarRequest.of(entity="item", id=row_id, **keys)
        return [hit.id for hit in self.searcher.similar(request).results]


@pytest.fixture
def opened(world: World) -> Iterator[Callable[..., Search]]:
    """Opens a searcher with these settings."""
    with ExitStack() as stack:

        def open_searcher(**settings: Any) -> Search:
            pipeline = SimpleNamespace(
                vectors=world.postgres,
                schema=SCHEMA,
                encoders=world.encoders,
                settings=Settings(_env_file=None, **settings),
                one_database=True,
            )
            return Search(stack.enter_context(Searcher(cast(Pipeline, pipeline))))

        yield open_searcher


@pytest.fixture
def search(opened: Callable[..., Search]) -> Search:
    return opened()


def publish_shop(world: World, **keys: Any) -> None:
    """Make a staging table of the rows, and run its entity."""
    world.table("id bigint, name text, category text, price float8, is_removed boolean")
    world.insert(*((*row, False) for row in ROWS))
    declared = {"include": ["name"], "filters": ["category", "price"], "deleted": "is_removed"}
    world.run(world.declare(**declared, **keys))


@pytest.fixture
def shop(world: World) -> World:
    """Five items, published."""
    publish_shop(world)
    return world


@pytest.fixture
def client(shop: World) -> Iterator[httpx.Client]:
    """A client of the service, which has no keys."""
    with served(shop.database, shop.encoder) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module, since it takes seconds to start; and not for longer, since an
    event loop runs in this thread as long as it is there."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """The page of the shop; its console must stay silent."""
    with opened_page(browser, str(client.base_url)) as (page, complaints):
        page.goto("/")
        yield page
        assert complaints == []
