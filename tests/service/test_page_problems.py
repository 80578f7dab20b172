"""A key that is missing, a mistake, nothing found and a service that is gone: each on the page with
the next step."""

from __future__ import annotations

from hashlib import sha256

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import needs_chromium, opened, results, search
from tests.support.serving import served
from tests.support.world import World

pytestmark = [needs_chromium, pytest.mark.long]


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser, shop: World) -> None:
    keys = f"reader:read:{sha256(b'open-sesame').hexdigest()}"
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
        expect(page.locator("#results h3").first).to_have_text("red shoe")
        expect(field).to_be_hidden()

        page.reload()
        assert results(page)[0] == "red shoe"
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        assert "sesame" not in page.url
        # the browser itself tells of each 401
        assert all("401" in complaint for complaint in complaints)


def test_a_problem_is_told_in_words_with_a_way_out(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, str(client.base_url)) as (page, _):
        page.goto('/?q=lamp&filters={"colour":"red"}')
        alert = page.locator("#results [role=alert]")
        expect(alert).to_contain_text("This cannot be searched")
        expect(alert).to_contain_text("Filter 'colour' is not a filter column (category, price)")
        alert.get_by_role("button", name="Clear filters").click()
        expect(page.locator("#said")).to_contain_text("5 of 5 results")


def test_words_that_no_row_has_are_told_from_rows_that_are_near(page: Page) -> None:
    search(page, "zzqxv")
    notice = page.locator("#results .notice")
    expect(notice).to_contain_text("No row has “zzqxv”. Below is what is nearest in meaning")
    assert len(results(page)) == 5

    search(page, "zzqxv lamp")
    expect(notice).to_have_count(0)
    expect(page.locator("#results")).not_to_contain_text("No row has")

    page.get_by_role("radio", name="Words").check(force=True)
    expect(page.locator("#results")).to_contain_text("No row has “zzqxv”.")
    search(page, "zzqxv")
    expect(page.locator("#said")).to_contain_text("No results")
    page.get_by_role("button", name="Search by meaning").click()
    expect(page.locator("#results li")).to_have_count(5)


def test_a_word_typed_wrong_is_put_right_from_the_rows(page: Page) -> None:
    search(page, "gadren hose")

    page.get_by_role("button", name="Did you mean garden hose?").click()

    expect(page.get_by_label("Search for")).to_have_value("garden hose")
    expect(page.locator("#results .notice")).to_have_count(0)
    assert results(page)[0] == "green garden hose"


def test_a_query_without_a_known_word_shows_rows_with_the_nearest_words(page: Page) -> None:
    page.get_by_role("radio", name="Words").check(force=True)
    search(page, "gadren hsoe")
    expect(page.locator("#results .notice")).to_contain_text("No row has “gadren”, “hsoe”")
    first = page.locator("#results article").first
    expect(first.locator("mark")).to_have_text(["garden", "hose"])
    first.get_by_text("Why this result").click()
    expect(first.locator(".reasons")).to_contain_text("By words1st, score")

    page.get_by_role("button", name="Search for garden hose").click()
    expect(page.get_by_label("Search for", exact=True)).to_have_value("garden hose")
    expect(page.locator("#results .notice")).to_have_count(0)


def test_an_order_by_an_unknown_column_is_told_with_a_way_out(
    browser: Browser, client: httpx.Client
) -> None:
    with opened(browser, str(client.base_url)) as (page, _):
        page.goto("/?q=lamp&sort=size")
        expect(page.locator("#results [role=alert]")).to_contain_text(
            "Sort: 'size' is not a filter"
        )
        page.get_by_role("button", name="Without an order").click()
        expect(page.locator("#said")).to_contain_text("5 of 5 results")


def test_filters_that_leave_nothing_are_told_and_cleared(page: Page) -> None:
    page.goto('/?q=lamp&filters={"price":{"gte":"1000"}}')
    expect(page.locator("#results .notice")).to_contain_text("No row of item passes these filters")
    page.locator("#results").get_by_role("button", name="Clear filters").click()
    expect(page.locator("#results li")).to_have_count(5)


def test_an_entity_that_is_not_there_leads_to_those_that_are(page: Page) -> None:
    page.goto("/?entity=nothing&q=lamp")
    expect(page.locator("#results [role=alert]")).to_contain_text("There is no “nothing”")
    page.get_by_role("button", name="Search item").click()
    expect(page.locator("#results h3").first).to_contain_text("lamp")


def test_a_row_that_is_gone_leads_back_to_the_search(
    browser: Browser, client: httpx.Client
) -> None:
    with opened(browser, str(client.base_url)) as (page, _):
        page.goto("/?q=lamp&like=404")
        page.locator("#results").get_by_role("button", name="Back to the search").click()
        expect(page.locator("#results li")).to_have_count(5)


def test_a_slow_search_says_that_it_goes_on(page: Page) -> None:
    results(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/search", hold)
    page.get_by_label("Search for").fill("lamp")
    expect(page.locator("#said")).to_have_text("Searching…")
    held[0].continue_()
    expect(page.locator("#results h3").first).to_contain_text("lamp")


def test_a_service_that_is_busy_is_asked_again_when_it_said(
    browser: Browser, client: httpx.Client
) -> None:
    refusals = ["1"]

    def refuse_once(route: Route) -> None:
        if not refusals:
            return route.continue_()
        return route.fulfill(
            status=503,
            headers={"Retry-After": refusals.pop()},
            content_type="application/problem+json",
            body='{"detail": "the queue is full"}',
        )

    with opened(browser, str(client.base_url)) as (page, _):
        page.route("**/search", refuse_once)
        page.goto("/?q=lamp")
        expect(page.locator("#results [role=alert]")).to_contain_text("The service is busy")
        expect(page.locator("#said")).to_contain_text("5 of 5 results")


def test_a_service_that_was_stopped_is_found_again_by_itself(browser: Browser, shop: World) -> None:
    with served(shop.database, shop.encoder) as client:
        address, port = str(client.base_url), client.base_url.port or 0
        context = browser.new_context(base_url=address)
        search_page, state_page = context.new_page(), context.new_page()
        search_page.goto("/")
        results(search_page)
        state_page.goto("/")
        results(state_page)

    search_page.get_by_label("Search for").fill("lamp")
    state_page.get_by_role("tab", name="State").click()
    for page in (search_page, state_page):
        alert = page.get_by_role("alert").filter(has_text="The service is away")
        expect(alert).to_contain_text("The page tries again by itself")

    with served(shop.database, shop.encoder, port=port):
        expect(search_page.locator("#results h3").first).to_contain_text("lamp")
        expect(state_page.get_by_role("row", name="Item")).to_be_visible()
        context.close()
