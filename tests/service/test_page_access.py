"""The page for everyone: by keyboard, by screen reader, on a small screen, in light and dark."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import needs_chromium, opened, results, search

pytestmark = needs_chromium


def test_it_is_used_by_keyboard_alone(page: Page) -> None:
    query = page.get_by_label("Search for")
    expect(query).to_be_focused()
    page.get_by_role("tab", name="Search").focus()

    page.keyboard.press("/")
    expect(query).to_be_focused()
    expect(query).to_have_value("")
    page.keyboard.type("red boots")
    expect(page).to_have_url(re.compile("q=red.boots$"))
    assert results(page)[0] == "red boots of leather"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="More like this: red shoe")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("button", name="More like this: red boots of leather")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#like")).to_contain_text("More like red boots of leather")
    expect(page.get_by_role("button", name="More like this: red shoe")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#like")).to_be_hidden()
    expect(query).to_be_focused()

    page.get_by_role("tab", name="Search").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="State")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="State")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Search")).to_be_hidden()
    page.keyboard.press("/")
    expect(query).to_be_focused()


def test_arrows_go_from_one_way_to_the_next(page: Page) -> None:
    search(page, "garden lamp")
    page.get_by_text("Side by side").click()
    both, meaning = (page.get_by_role("region", name=name) for name in ("Both", "Meaning"))
    expect(meaning.locator("li")).to_have_count(5)

    page.get_by_label("Search for").press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(meaning.locator(".primary").first).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(both.locator(".primary").first).to_be_focused()


@pytest.mark.parametrize("address", ["/?q=lamp&mode=compare", "/?tab=state", "/?like=2"])
def test_all_has_a_name_for_a_screen_reader(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#results li, #entities article").first).to_be_attached()

    nameless = page.locator("input, select, button, progress, img, fieldset").evaluate_all(
        """all => all.filter(one => one.checkVisibility()).filter(one =>
             !one.ariaLabel && !one.alt && !one.labels?.[0]?.textContent.trim()
             && !one.querySelector(":scope > legend") && !(one.matches("button") && one.innerText)
           ).map(one => one.outerHTML)"""
    )
    assert nameless == []
    duplicates = page.evaluate(
        "[...document.querySelectorAll('[id]')].map(one => one.id)"
        ".filter((id, index, all) => all.indexOf(id) !== index)"
    )
    assert duplicates == []
    dangling = page.evaluate(
        """[...document.querySelectorAll("[aria-labelledby], [aria-controls], [aria-describedby]")]
             .flatMap(one => ["aria-labelledby", "aria-controls", "aria-describedby"]
               .flatMap(name => (one.getAttribute(name) ?? "").split(" ").filter(Boolean)))
             .filter(id => !document.getElementById(id))"""
    )
    assert dangling == []
    expect(page.get_by_role("tablist", name="Views").get_by_role("tab")).to_have_count(2)
    expect(page.get_by_role("tab", selected=True)).to_have_count(1)
    for status in ("#said", "#counted"):
        expect(page.locator(status)).to_have_attribute("role", "status")


@pytest.mark.parametrize("address", ["/?q=lamp", "/?q=lamp&mode=compare", "/?tab=state"])
def test_nothing_is_wider_than_a_small_screen(
    browser: Browser, client: httpx.Client, address: str
) -> None:
    with opened(browser, str(client.base_url), viewport={"width": 360, "height": 740}) as (page, _):
        page.goto(address)
        expect(page.locator("#results li, #entities article").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_results_do_not_shift_the_page(page: Page) -> None:
    page.evaluate(
        """() => { window.shifts = []; new PerformanceObserver((list) =>
             window.shifts.push(...list.getEntries().map((one) => one.value))
           ).observe({ type: "layout-shift", buffered: true }); }"""
    )
    search(page, "lamp")
    search(page, "a red shoe")
    assert sum(page.evaluate("window.shifts")) < 0.1
