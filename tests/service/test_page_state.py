"""The state of each entity on the page."""

from __future__ import annotations

import httpx
from playwright.sync_api import Browser, expect

from tests.support.browser import needs_chromium, opened
from tests.support.world import World

pytestmark = needs_chromium


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
        figures = dict(
            zip(
                entity.locator(".figures dt").all_inner_texts(),
                entity.locator(".figures dd").all_inner_texts(),
                strict=True,
            )
        )
        assert figures["Rows"] == "6"
        assert figures["Pending"] == "1"
        assert figures["Quarantined"] == "0"
        assert figures["Recall@10"] == "1.000"
        expect(entity).to_contain_text("fake/words, 64 dimensions, set 1")
        entity.locator("summary").click()
        expect(entity.get_by_role("row")).to_have_count(3)
        page.go_back()
        expect(page.get_by_role("tabpanel", name="Search")).to_be_visible()
        assert complaints == []
