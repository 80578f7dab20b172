"""A client of the service over a published entity, and its page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from embeddings_pipeline.database import Database
from tests.support.browser import chromium
from tests.support.browser import opened as opened_page
from tests.support.databases import Templates, copy_of
from tests.support.published_shop import publish_shop
from tests.support.serving import served
from tests.support.world import World


@pytest.fixture(scope="module")
def published(templates: Templates) -> Iterator[Database]:
    """The shop, for tests of a module that change nothing in it."""
    with copy_of(templates.prepared(publish_shop)) as database:
        yield database


@pytest.fixture
def client(shop: World) -> Iterator[httpx.Client]:
    """A client of the service, which has no keys."""
    with served(shop.database, shop.encoder) as client:
        yield client


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The dbt manifest that declares the shop."""
    declared = {"include": ["name"], "filters": ["category", "price"], "deleted": "is_removed"}
    node = {
        "resource_type": "model",
        "name": "stg_item",
        "alias": "stg_item",
        "schema": "staging",
        "package_name": "shop",
        "original_file_path": "models/staging/stg_item.yml",
        "config": {"meta": {"embedding": {"id": "id", "entity": "item", **declared}}},
    }
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({"nodes": {"model.shop.stg_item": node}, "sources": {}}))
    return file


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
