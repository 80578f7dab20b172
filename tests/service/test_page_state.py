"""The state of each entity on the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, expect

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

        entity = page.get_by_role("article", name="item")
        expect(entity).to_be_visible()
        bar = entity.get_by_role("progressbar", name="Coverage of item")
        assert bar.evaluate("bar => Math.round(bar.value)") == 83
        expect(entity).to_contain_text("83.3 %")
        expect(page.locator("#counted")).to_have_text("1 entity, 1 not complete")
        shown = figures(entity)
        assert shown["Rows"] == "6"
        assert shown["Pending"] == "1"
        assert shown["Quarantined"] == "0"
        assert shown["Recall@10"] == "1.000"
        expect(entity).to_contain_text("fake/words, 64 dimensions, set 1")
        runs = entity.get_by_role("img", name="Texts of the last runs of item")
        assert runs.locator("g").count() == 2
        expect(entity).to_contain_text("2 runs: 5 texts encoded, 0 reused")
        entity.locator("summary").click()
        expect(entity.get_by_role("row")).to_have_count(3)
        page.go_back()
        expect(page.get_by_role("tabpanel", name="Search")).to_be_visible()
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
        page.goto("/?tab=state")
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
        page.goto("/?tab=state")
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
