"""A searcher over the test's own world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.requests import Answer, SearchRequest, SimilarRequest
from embeddings_pipeline.search.searcher import Searcher
from embeddings_pipeline.settings import Settings
from tests.support.world import SCHEMA, World


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
    """Opens a searcher with these settings, over the world's database or another way to it."""
    with ExitStack() as stack:

        def open_searcher(database: Database = world.database, **settings: Any) -> Search:
            pipeline = SimpleNamespace(
                search_database=database,
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
