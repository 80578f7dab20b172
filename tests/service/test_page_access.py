"""The page for everyone: by keyboard, by screen reader, on a small screen, in light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from embeddings_pipeline.service.app import PAGE
from tests.support.browser import needs_chromium, opened, results, search

pytestmark = [needs_chromium, pytest.mark.long]

LARGEST_BYTES = 150_000


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
    expect(page.get_by_role("button", name="More like this: red boots")).to_be_focused()
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


def first_view(page: Page) -> None:
    page.goto("/")
    results(page)


def a_result_explained(page: Page) -> None:
    page.goto('/?q=lamp&filters={"category":["light"]}')
    page.get_by_text("Why this result").first.click()
    expect(page.locator(".reasons dd").first).to_be_visible()


def side_by_side(page: Page) -> None:
    page.goto("/?q=lamp&mode=compare")
    results(page)


def more_like_a_row(page: Page) -> None:
    page.goto("/?like=2")
    results(page)


def nothing_found(page: Page) -> None:
    page.goto('/?q=zzqxv&mode=text&filters={"category":["none"]}')
    expect(page.locator("#results .notice")).to_be_visible()


def an_unknown_entity(page: Page) -> None:
    page.goto("/?entity=none")
    expect(page.locator("#results .notice")).to_be_visible()


def a_problem(page: Page) -> None:
    page.goto('/?q=lamp&filters={"colour":"red"}')
    expect(page.locator("#results .problem")).to_be_visible()


def browsed_rows(page: Page) -> None:
    page.goto("/?sort=-price")
    results(page)


def a_typo(page: Page) -> None:
    page.goto("/?q=gadren&mode=text")
    expect(page.locator("#results .notice")).to_be_visible()


def state(page: Page) -> None:
    page.goto("/?tab=state")
    expect(page.get_by_role("row", name="Item")).to_be_visible()


def an_entity(page: Page) -> None:
    page.goto("/?tab=state&of=item")
    page.locator("#entities summary").click()
    expect(page.locator(".declared dl")).to_be_visible()


VIEWS = (
    *(first_view, a_result_explained, side_by_side, more_like_a_row, browsed_rows, a_typo),
    *(nothing_found, an_unknown_entity, a_problem, state, an_entity),
)


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    browser: Browser, client: httpx.Client, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 844}
    with opened(browser, str(client.base_url), color_scheme=scheme, viewport=size) as (page, _):
        for view in VIEWS:
            view(page)
            found = Axe().run(page)
            assert found.response["violations"] == [], f"{view.__name__}\n{found.generate_report()}"
            widest = page.evaluate("document.documentElement.scrollWidth")
            assert widest <= width, view.__name__


@pytest.fixture
def phone(browser: Browser, client: httpx.Client) -> Callable[[str], Page]:
    """Opens an address of the page on a phone."""
    context = browser.new_context(
        base_url=str(client.base_url),
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
    )

    def at(address: str) -> Page:
        page = context.new_page()
        page.goto(address)
        results(page)
        return page

    return at


def test_results_begin_in_the_upper_half_of_a_phone(phone: Callable[[str], Page]) -> None:
    page = phone("/?q=lamp")
    box = page.locator("#results h3").first.bounding_box()
    assert box is not None
    assert box["y"] < 422


def test_a_phone_does_not_enlarge_the_page_around_a_field(phone: Callable[[str], Page]) -> None:
    page = phone("/?q=lamp")
    page.get_by_text("Filters", exact=True).click()
    sizes = page.locator(
        "input:not([type=checkbox], [type=radio]):visible, select:visible"
    ).evaluate_all("all => all.map(one => parseFloat(getComputedStyle(one).fontSize))")
    assert min(sizes) >= 16


def test_nothing_scrolls_inside_the_page(phone: Callable[[str], Page]) -> None:
    for address in ("/?q=lamp&mode=compare", "/?tab=state", "/?tab=state&of=item"):
        page = phone("/?q=lamp")
        page.goto(address)
        shown = page.locator("#results li, #entities tr, #entities article")
        expect(shown.first).to_be_attached()
        inner = page.evaluate(
            """[...document.body.querySelectorAll("*")].filter((one) =>
                 /auto|scroll/.test(getComputedStyle(one).overflowX) ||
                 /auto|scroll/.test(getComputedStyle(one).overflowY)).map((one) => one.outerHTML)"""
        )
        assert inner == []


def test_ways_to_rank_are_tabs_on_a_phone(phone: Callable[[str], Page]) -> None:
    page = phone("/?q=garden lamp&mode=compare")
    expect(page.get_by_role("region", name="Both")).to_be_visible()
    expect(page.get_by_role("region", name="Words")).to_be_hidden()

    page.get_by_role("tab", name="Words").tap()

    expect(page.get_by_role("region", name="Words").locator("h3").first).to_have_text("garden lamp")
    expect(page.get_by_role("region", name="Both")).to_be_hidden()


def test_results_do_not_shift_the_page(page: Page) -> None:
    search(page, "lamp")
    page.evaluate(
        """() => { window.shifts = []; new PerformanceObserver((list) =>
             window.shifts.push(...list.getEntries().map((one) => one.value))
           ).observe({ type: "layout-shift" }); }"""
    )
    search(page, "a red shoe")
    search(page, "a red lamp")
    assert sum(page.evaluate("window.shifts")) < 0.1


def test_print_shows_results_and_no_controls(page: Page) -> None:
    search(page, "lamp")
    page.emulate_media(media="print")
    expect(page.locator("#results h3").first).to_be_visible()
    assert page.locator("input:visible, select:visible, button:visible").count() == 0
    page.goto("/?tab=state&of=item")
    expect(page.get_by_role("article", name="Item")).to_be_visible()
    assert page.locator("select:visible, button:visible, nav:visible").count() == 0


def test_less_motion_is_given_where_it_is_wanted(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.get_by_label("Search for").fill("zzqxv")
    notice = page.locator("#results .notice")
    expect(notice).to_be_visible()
    assert notice.evaluate("one => getComputedStyle(one).animationName") == "none"


def test_all_files_together_are_small() -> None:
    assert sum(file.stat().st_size for file in Path(PAGE).iterdir()) <= LARGEST_BYTES
