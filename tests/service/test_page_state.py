"""The state of each entity on the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path
from unittest.mock import ANY

import httpx
import pytest
from playwright.sync_api import Browser, Locator, expect

from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.vectors import quality
from embeddings_pipeline.sync.index import sync_index
from tests.support.browser import needs_chromium, opened
from tests.support.serving import served
from tests.support.words import WordsEncoder
from tests.support.world import World

pytestmark = needs_chromium


def figures(place: Locator) -> dict[str, str]:
    """The figures of an entity or of a plan, by name."""
    names = place.locator("dt").all_text_contents()
    return dict(zip(names, place.locator("dd").all_text_contents(), strict=True))


def test_the_state_shows_how_far_each_entity_is(
    browser: Browser, shop: World, client: httpx.Client
) -> None:
    shop.insert((6, "a cord", "light", 1.0, False))
    shop.texts(shop.declare(include=["name"], filters=["category", "price"], deleted="is_removed"))
    with opened(browser, str(client.base_url)) as (page, complaints):
        page.goto("/")
        page.get_by_role("tab", name="State").click()
        expect(page.locator("#counted")).to_have_text("1 entity, 1 not complete")
        row = page.get_by_role("row", name="Item")
        bar = row.get_by_role("progressbar", name="Coverage of item")
        assert bar.evaluate("bar => Math.round(bar.value)") == 83
        assert row.locator("td").all_text_contents()[:6] == ["83.3 %", "6", "1", "0", ANY, "1.000"]
        assert row.get_by_role("img", name="Texts of the last runs of item").count() == 1

        row.get_by_role("link", name="Item").click()
        expect(page).to_have_url(re.compile(r"\?tab=state&of=item$"))
        assert page.title() == "State · item · Search"
        entity = page.get_by_role("article", name="Item")
        expect(entity).to_contain_text("fake/words, 64 dimensions, set 1")
        shown = figures(entity.locator(".figures").first)
        assert (shown["Rows"], shown["Pending"], shown["Quarantined"]) == ("6", "1", "0")
        texts = entity.get_by_role("img", name="Texts of the last runs of item")
        assert texts.locator("g").count() == 2
        expect(entity).to_contain_text("5 encoded")
        expect(entity.get_by_role("img", name="Seconds of the last runs of item")).to_be_visible()
        expect(entity).to_contain_text("$0 in all")
        entity.locator("summary").click()
        expect(entity.get_by_role("row")).to_have_count(3)
        columns = figures(entity.locator(".declared"))
        assert (columns["name"], columns["category"]) == ("text", "text, filter")

        entity.get_by_role("link", name="Search item").click()
        expect(page.get_by_label("Search for")).to_be_visible()
        page.go_back()
        expect(entity).to_be_visible()
        page.go_back()
        expect(row).to_be_visible()
        page.goto("/?tab=state&of=nothing")
        expect(page.get_by_role("alert")).to_contain_text("There is no “nothing”")
        page.get_by_role("button", name="Item").click()
        expect(entity).to_be_visible()
        assert complaints == []


def test_quality_is_shown_as_it_was_measured(browser: Browser, shop: World) -> None:
    item = shop.declare(include=["name"], filters=["category", "price"], deleted="is_removed")
    sync_index(shop.postgres, shop.names_of(item), rebuild=True)
    with open_tables(shop.postgres, shop.names_of(item)) as tables:
        (live,) = vector_sets.read(tables)
        quality.store_scores(tables, live, "", [(0.5, 1.0), (1.0, 1.0)])
    with (
        served(shop.database, shop.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        (state,) = client.get("/stats").json()["entities"]
        assert [(one["recall_at_10"], one["ndcg_at_10"]) for one in state["quality"]] == [
            *((None, 0.75), (1.0, None), (1.0, None)),
        ]
        page.goto("/?tab=state&of=item")
        entity = page.get_by_role("article", name="Item")
        expect(entity).to_contain_text("Recall@10 1.0002 measurements, declared 0.99")
        expect(entity).to_contain_text("nDCG@10 0.7501 measurement")
        recall = entity.get_by_role("img", name="Recall@10 of item")
        expect(recall.locator("path")).to_have_count(2)
        assert complaints == []


def test_pending_partitions_and_failures_with_their_texts_are_shown(
    browser: Browser, world: World
) -> None:
    def refuse(texts: Sequence[str]) -> None:
        if any("odd" in text for text in texts):
            raise ValueError("cannot take this")

    world.use(WordsEncoder(world.encoder.identity, refuse))
    world.table("id bigint, name text, added date")
    world.insert((1, "odd <b>", date(2026, 1, 1)), (2, "even", date(2026, 1, 2)))
    by_day = {"by": "day", "column": "added", "start": "2026-01-01"}
    item = world.declare(template="{name}", partitions=by_day)
    world.run(item)
    world.insert((3, "later", date(2026, 1, 3)))
    world.texts(item)
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?tab=state&of=item")
        partitions = page.locator(".partitions > div")
        expect(partitions).to_have_count(2)
        assert partitions.all_text_contents() == ["2026-01-010, 1 quarantined", "2026-01-031"]
        page.get_by_text("1 latest failure").click()
        failure = page.locator(".failures li")
        expect(failure).to_contain_text("1: ValueError: cannot take this")
        expect(failure).to_contain_text("odd <b>")
        expect(failure).to_contain_text("encode, 1 attempt")
        assert complaints == []


@pytest.mark.parametrize("scope", ["read", "write"])
def test_a_plan_of_the_next_run_needs_a_key_that_may_write(
    browser: Browser, shop: World, manifest: Path, scope: str
) -> None:
    shop.insert((6, "wooden chair", "furniture", 30.0, False))
    keys = f"page:{scope}:{sha256(b'open-sesame').hexdigest()}"
    with (
        served(shop.database, shop.encoder, dbt_manifest=manifest, search_api_keys=keys) as client,
        opened(browser, str(client.base_url)) as (page, _),
    ):
        page.goto("/?tab=state&of=item")
        page.get_by_label("API key").fill("open-sesame")
        page.get_by_label("API key").press("Enter")
        page.get_by_role("button", name="Plan the next run of item").click()
        plan = page.locator(".plan")
        if scope == "write":
            expect(plan.locator("dl")).to_be_visible()
            shown = figures(plan)
            assert (shown["New"], shown["Unchanged"], shown["Encode"]) == ("1", "5", "1")
            assert shown["Costs"] == "$0"
        else:
            expect(plan).to_contain_text("the key may read only")
