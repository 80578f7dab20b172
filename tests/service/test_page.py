"""Searching on the page, in a real Chromium, from the real service over a real Postgres."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import needs_chromium, opened, search, texts

pytestmark = needs_chromium


def test_typing_finds_and_marks_the_words(page: Page) -> None:
    expect(page.locator("#said")).to_have_text("Type to search item.")

    search(page, "Leather boot")

    assert texts(page)[0] == "name: red boots of leather"
    assert page.locator("#results li").first.locator("mark").all_inner_texts() == [
        "boots",
        "leather",
    ]
    expect(page.locator("#fresh")).to_contain_text("100 % of rows have vectors, up to date")
    expect(page.locator("#results li").first).to_contain_text("categoryfootwear")
    expect(page.locator("#said")).to_contain_text("5 results (5 fewer than requested) in")


def test_results_that_are_only_near_are_called_that(page: Page) -> None:
    search(page, "zzqxv")
    expect(page.locator("#said")).to_contain_text(
        "5 results that are only near: no row has a word of the query (similarity "
    )


def test_a_search_that_is_no_longer_wanted_is_given_up(page: Page) -> None:
    def hold_lamps(route: Route) -> None:
        if '"lamp"' not in (route.request.post_data or ""):
            route.continue_()

    page.route("**/search", hold_lamps)
    with page.expect_request("**/search"):
        page.get_by_label("Search for").fill("lamp")

    with page.expect_event("requestfailed") as given_up:
        search(page, "shoe")

    assert '"lamp"' in given_up.value.post_data
    assert texts(page)[0] == "name: red shoe"
    expect(page.get_by_label("Search for")).to_have_value("shoe")


def test_what_is_typed_before_the_entities_are_known_is_kept(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/entities", hold)
    with page.expect_request("**/entities"):
        page.reload()

    page.get_by_label("Search for").fill("shoe")
    # the page has noticed, and asks for nothing that it waits for
    expect(page).to_have_url(re.compile("q=shoe"))
    held[0].continue_()

    assert texts(page)[0] == "name: red shoe"
    expect(page.get_by_label("Search for")).to_have_value("shoe")


def test_facets_come_from_the_data_and_filter(page: Page) -> None:
    light = page.get_by_role("group", name="category").get_by_label("light 2")
    search(page, "garden lamp")

    light.check()
    expect(page.locator("#results li")).to_have_count(2)
    expect(light).to_be_focused()
    page.get_by_label("price to").fill("30")
    page.get_by_label("price to").press("Enter")
    expect(page.locator("#results li")).to_have_count(1)
    assert texts(page) == ["name: blue lamp"]

    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("#results li")).to_have_count(5)
    expect(light).not_to_be_checked()


def test_ways_to_rank_are_shown_side_by_side(page: Page) -> None:
    search(page, "garden lamp")
    texts(page)

    page.get_by_text("Side by side").click()

    for way in ("Hybrid", "Dense", "Text"):
        column = page.get_by_role("region", name=way)
        expect(column.locator(".text").first).to_have_text("name: garden lamp")
    best = page.get_by_role("region", name="Dense").locator("li").first
    expect(best).to_contain_text("hybrid 1")
    expect(best).to_contain_text("text 1")
    expect(page.get_by_role("region", name="Text").locator("li")).to_have_count(3)


def test_more_like_a_row_leaves_it_out_and_goes_back(page: Page) -> None:
    search(page, "leather")
    texts(page)

    page.get_by_role("button", name="More like this: 4").click()

    expect(page.locator("#like")).to_contain_text("More like 4 name: red boots of leather")
    assert texts(page)[0] == "name: red shoe"
    assert "name: red boots of leather" not in texts(page)
    page.get_by_role("button", name="Back to the search").click()
    expect(page.locator("#like")).to_be_hidden()
    expect(page.locator("#results .text").first).to_have_text("name: red boots of leather")


def test_the_address_holds_what_is_shown_and_the_back_button_works(
    page: Page, browser: Browser
) -> None:
    search(page, "lamp")
    page.get_by_text("Side by side").click()
    page.get_by_label("light 2").check()
    expect(page).to_have_url(re.compile(r"q=lamp&mode=compare&filters="))
    expect(page.locator("#results ol").first.locator("li")).to_have_count(2)

    with opened(browser, page.url) as (other, complaints):
        other.goto(page.url)
        expect(other.get_by_label("Search for")).to_have_value("lamp")
        expect(other.get_by_label("light 2")).to_be_checked()
        expect(other.get_by_role("region", name="Text").locator("li")).to_have_count(2)
        assert complaints == []

    page.go_back()
    expect(page.get_by_label("light 2")).not_to_be_checked()
    expect(page.get_by_role("region", name="Dense").locator("li")).to_have_count(5)
    page.go_back()
    expect(page.get_by_role("radio", name="Hybrid")).to_be_checked()
    expect(page.get_by_role("region", name="Dense")).to_have_count(0)
    page.go_back()
    expect(page.get_by_label("Search for")).to_have_value("")
    expect(page.locator("#said")).to_have_text("Type to search item.")
