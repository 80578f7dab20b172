"""A key that is wanting, a mistake and a service that is gone are said on the page."""

from __future__ import annotations

from hashlib import sha256

import httpx
from playwright.sync_api import Browser, expect

from tests.support.browser import needs_chromium, opened, results
from tests.support.serving import served
from tests.support.world import World

pytestmark = needs_chromium


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser, shop: World) -> None:
    keys = f"reader:read:{sha256(b'open sesame'.replace(b' ', b'-')).hexdigest()}"
    with (
        served(shop.database, shop.encoder, search_api_keys=keys) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=shoe")
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#key-said")).to_have_text("The key is unknown.")
        field.fill("ключ")
        field.press("Enter")
        expect(page.locator("#key-said")).to_contain_text("only plain letters")
        field.fill("open-sesame")
        field.press("Enter")
        assert results(page)[0] == "red shoe"
        expect(field).to_be_hidden()

        page.reload()
        assert results(page)[0] == "red shoe"
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        assert "sesame" not in page.url
        # the browser itself tells of each 401
        assert all("401" in complaint for complaint in complaints)


def test_a_problem_is_said_in_words(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, str(client.base_url)) as (page, _):
        page.goto('/?q=lamp&filters={"colour":"red"}')
        alert = page.locator("#results [role=alert]")
        expect(alert).to_contain_text("Unprocessable")
        expect(alert).to_contain_text("filter 'colour' is not a filter column (category, price)")
        page.get_by_role("button", name="Clear filters").click()
        assert "garden lamp" in results(page)


def test_a_service_that_is_gone_is_said_so(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, str(client.base_url)) as (page, _):
        page.goto("/")
        expect(page.locator("#said")).to_have_text("Some of 5 rows")
        page.context.set_offline(True)
        page.get_by_label("Search for").fill("lamp")
        expect(page.locator("#results [role=alert]")).to_contain_text("cannot be reached")
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        assert "garden lamp" in results(page)
