"""Searching on the page, in a real Chromium, from the real service over a real Postgres."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import date
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.support.browser import needs_chromium, opened, results, search
from tests.support.published_shop import publish_shop
from tests.support.serving import served
from tests.support.world import World

pytestmark = [needs_chromium, pytest.mark.long]


def queries(requests: list[Request]) -> list[str]:
    """The queries of requests for a search."""
    bodies: list[Any] = [one.post_data_json for one in requests if one.url.endswith("/search")]
    return [body["query"] for body in bodies]


def test_the_first_view_shows_rows_and_queries_from_the_data(page: Page) -> None:
    expect(page.get_by_role("heading", name="Search item")).to_be_visible()
    expect(page.get_by_label("Search for")).to_be_focused()
    expect(page.locator("#said")).to_have_text("Some of 5 rows")
    assert sorted(results(page))[:2] == ["blue lamp", "garden lamp"]

    page.locator("#welcome").get_by_role("button", name="green garden hose").click()

    expect(page.get_by_label("Search for")).to_have_value("green garden hose")
    expect(page.locator("#results h3").first).to_have_text("green garden hose")
    expect(page.get_by_role("heading", name="Search item")).to_have_count(0)


def test_a_result_has_a_heading_a_link_a_picture_prose_and_fields_for_readers(
    browser: Browser, world: World
) -> None:
    world.table(
        "id bigint, name text, about text, page text, photo text, size_kb int, is_new boolean,"
        " sold_on date, maker text"
    )
    words = "A pump for gardens. It pumps 1 😀 litre, and the pumping is silent. " * 8
    world.insert(
        (
            *(7, "Pump <b>X</b>", words, "https://shop.example/7?a=1", "data:image/png;base64,xx"),
            *(19882, True, date(2026, 3, 9), "Ada"),
        ),
        (8, "Hose", "A hose.", "javascript:alert(1)", None, None, None, None, None),
    )
    world.run(
        world.declare(
            title="name",
            url="page",
            image_url="photo",
            include=["name", "about", "maker"],
            filters=["size_kb", "is_new", "sold_on"],
        )
    )
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url), locale="de-DE") as (page, _),
    ):
        page.goto("/?q=pumps")
        assert results(page) == ["Pump <b>X</b>", "Hose"]
        first, second = page.locator("#results article").all()

        link = first.get_by_role("link", name="Pump <b>X</b>")
        expect(link).to_have_attribute("href", "https://shop.example/7?a=1")
        expect(first.locator(".where")).to_contain_text("shop.example")
        assert second.get_by_role("link").count() == 0
        prose = first.locator(".text")
        assert (prose.text_content() or "").startswith("A pump for gardens. It pumps 1 😀 litre,")
        assert prose.locator("mark").all_text_contents()[:3] == ["pump", "pumps", "pumping"]
        assert first.locator(".fields > div").all_text_contents() == [
            "Size (KB)19.882",
            "Newyes",
            "Sold on09.03.2026",
            "MakerAda",
        ]
        first.get_by_role("button", name="Show all").click()
        assert (prose.text_content() or "").strip() == words.strip()


def test_why_a_row_was_found_is_told_on_demand(page: Page) -> None:
    search(page, "Leather boot")

    page.locator("#results article").first.get_by_text("Why this result").click()

    reasons = page.locator("#results article").first.locator(".reasons")
    expect(reasons).to_contain_text("By meaning1st nearest, similarity 0.")
    expect(reasons).to_contain_text("By words1st, score")
    expect(reasons).to_contain_text("Words in itboots, leather")
    expect(reasons).to_contain_text("boot 1")


def test_typing_finds_and_marks_the_words(page: Page) -> None:
    search(page, "Leather boot")

    assert results(page)[0] == "red boots of leather"
    marks = page.locator("#results li").first.locator("mark")
    assert marks.all_inner_texts() == ["boots", "leather"]
    expect(page.locator("#fresh")).to_contain_text("100 % of rows can be found, up to date")
    expect(page.locator("#results li").first).to_contain_text("Categoryfootwear")
    expect(page.locator("#said")).to_contain_text("5 of 5 results")
    expect(page.get_by_label("Order")).to_have_value("")


def test_results_are_shown_while_a_phrase_is_typed(page: Page) -> None:
    results(page)
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    page.on("request", note)
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() =>
             window.seen.add(document.querySelector("#results h3 mark")?.textContent)
           ).observe(document.getElementById("results"), { childList: true, subtree: true }); }"""
    )

    page.keyboard.type("garden hose for boots", delay=60)

    expect(page).to_have_url(re.compile("q=garden"))
    assert queries(requests)[-1] == "garden hose for boots"
    # "garden" was marked before "boots" was there
    assert "garden" in page.evaluate("[...window.seen]")
    assert len({*queries(requests)}) >= 3
    assert page.evaluate("history.length") == 3


def test_rows_that_stay_are_not_drawn_again(page: Page) -> None:
    search(page, "garden hose")
    page.locator("#results h3").evaluate_all("all => all.forEach(one => (one.dataset.old = 1))")

    search(page, "garden hose ")

    assert page.locator("#results h3[data-old]").count() == 5


def test_a_search_that_is_no_longer_wanted_is_given_up(page: Page) -> None:
    def hold_lamps(route: Route) -> None:
        if '"lamp"' not in (route.request.post_data or ""):
            route.continue_()

    results(page)
    page.route("**/search", hold_lamps)
    with page.expect_request("**/search"):
        page.get_by_label("Search for").fill("lamp")

    with page.expect_event("requestfailed") as given_up:
        search(page, "shoe")

    assert '"lamp"' in (given_up.value.post_data or "")
    assert results(page)[0] == "red shoe"
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

    expect(page.locator("#results h3").first).to_have_text("red shoe")
    expect(page.get_by_label("Search for")).to_have_value("shoe")


def test_filters_come_from_the_data_and_count_what_each_would_leave(page: Page) -> None:
    category = page.get_by_role("group", name="Category")
    search(page, "garden lamp")

    category.get_by_label("light 2").check()
    expect(page.locator("#results li")).to_have_count(2)
    expect(category.get_by_label("light 2")).to_be_focused()
    # another value of the same column would be added; of the rest, only these rows count
    expect(category.get_by_label("footwear 2")).to_be_visible()
    category.get_by_label("garden 1").check()
    expect(page.locator("#said")).to_contain_text("3 of 3 results")
    page.get_by_label("Price to").fill("22")
    page.get_by_label("Price to").press("Enter")
    expect(page.locator("#results li")).to_have_count(1)
    assert results(page) == ["green garden hose"]
    expect(category.get_by_label("light 0")).to_be_checked()
    prices = page.get_by_role("group", name="Price").locator(".histogram title")
    # of the rows that the other filter leaves, whatever this range is
    assert sum(int(one.rpartition(": ")[2]) for one in prices.all_text_contents()) == 2

    chips = page.locator("#chips")
    expect(chips).to_contain_text("Category: light, garden")
    expect(chips).to_contain_text("Price: up to 22")
    chips.get_by_role("button", name="Remove the filter Category").click()
    expect(page.locator("#results li")).to_have_count(1)
    chips.get_by_role("button", name="Clear all").click()
    expect(page.locator("#results li")).to_have_count(5)
    expect(category.get_by_label("light 2")).not_to_be_checked()


def test_a_bar_of_the_rows_is_a_range(browser: Browser, world: World) -> None:
    world.table("id bigint, name text, size numeric, sold_on date, stars int")
    dirty = ((90, "thing", "NaN", "infinity", 5), (91, "thing", "1e300", None, 5))
    rows = ((n, f"thing {n}", n, date(2026, 1, 1 + n), 1 + n % 5) for n in range(20))
    world.insert(*rows, *dirty)
    world.run(world.declare(template="{name}", filters=["size", "sold_on", "stars"]))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        sizes, days, _ = client.get("/entities").json()["entities"][0]["filters"]
        assert sum(sizes["histogram"]["rows"]) == 21
        assert sum(days["histogram"]["rows"]) == 20

        page.goto("/?q=thing")
        sold = page.get_by_role("group", name="Sold on")
        sold.locator(".histogram g").first.click()

        expect(page.get_by_label("Sold on from")).to_have_value("2026-01-01")
        expect(page.locator("#chips")).to_contain_text("Sold on: Jan 1, 2026 to Jan 1, 2026")
        expect(page.locator("#said")).to_contain_text("1 of 1 result")
        expect(sold.locator(".histogram .in")).to_have_count(1)

        # a bar of whole numbers ends between two of them
        page.goto("/?q=thing")
        page.get_by_role("group", name="Stars").locator(".histogram g").first.click()

        expect(page.locator("#chips")).to_contain_text("Stars: 1 to 1.2")
        expect(page.locator("#said")).to_contain_text("4 of 4 results")
        assert complaints == []


def test_a_column_of_many_values_takes_any_of_them(browser: Browser, world: World) -> None:
    world.table("id bigint, name text, maker text")
    world.insert(*((n, f"thing {n}", f"maker {n:02}") for n in range(40)))
    world.run(world.declare(template="{name}", filters=["maker"]))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=thing")
        makers = page.get_by_role("group", name="Maker")
        expect(makers.get_by_role("checkbox")).to_have_count(8)
        makers.get_by_role("button", name="12 more").click()
        expect(makers.get_by_role("checkbox")).to_have_count(20)
        find = makers.get_by_label("Find a value of Maker")
        find.fill("maker 3")
        expect(makers.get_by_role("checkbox")).to_have_count(10)
        find.fill("37")
        expect(makers.get_by_label("maker 37 1")).to_be_visible()
        expect(makers.get_by_role("checkbox")).to_have_count(1)
        find.fill("nobody")
        expect(makers).to_contain_text("No value has a word like “nobody…”")
        find.fill("maker 37")
        expect(makers.get_by_role("checkbox")).to_have_count(1)
        find.press("Enter")
        expect(makers.get_by_label("maker 37 1")).to_be_checked()
        expect(find).to_have_value("")
        assert results(page) == ["thing 37"]
        assert complaints == []


def test_a_number_that_a_browser_would_round_is_shown_and_found(
    browser: Browser, world: World
) -> None:
    large = 2**53 + 1
    world.table("id bigint, name text, owners bigint[], serial bigint")
    world.insert((1, "pump", [large], large), (2, "hose", [large - 1, 7], large - 1))
    world.run(world.declare(template="{name}", filters=["owners", "serial"]))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=thing")
        page.get_by_label(f"{large} 1").check()
        expect(page.locator("#results h3")).to_have_text(["pump"])
        expect(page.locator("#results li")).to_contain_text(str(large))
        page.get_by_label("Serial from").fill(str(large))
        page.get_by_label("Serial from").press("Enter")
        expect(page.locator("#chips")).to_contain_text(f"Serial: from {large}")
        expect(page.locator("#results h3")).to_have_text(["pump"])
        assert complaints == []


def test_all_rows_are_browsed_in_any_order_and_filtered(page: Page) -> None:
    page.get_by_role("button", name="Browse all 5").click()
    expect(page.locator("#said")).to_contain_text("5 of 5 rows")
    assert results(page)[0] == "red shoe"
    assert page.get_by_label("Order").locator("option").all_text_contents() == [
        *("A sample", "By ID", "Category, A to Z", "Category, Z to A"),
        *("Price, lowest first", "Price, highest first"),
    ]

    page.get_by_label("Order").select_option("Price, highest first")
    expect(page).to_have_url(re.compile("sort=-price"))
    # a row without a price is last
    expect(page.locator("#results h3").first).to_have_text("red boots of leather")
    assert results(page)[-1] == "garden lamp"
    page.get_by_label("light 2").check()
    expect(page.locator("#results h3")).to_have_text(["blue lamp", "garden lamp"])
    expect(page.get_by_label("footwear 2")).to_be_visible()

    search(page, "garden lamp")
    expect(page.get_by_label("Order")).to_have_value("")
    assert results(page)[0] == "garden lamp"
    expect(page).to_have_url(re.compile("q=garden"))
    page.go_back()
    expect(page.get_by_label("Order")).to_have_value("-price")

    page.get_by_label("Order").select_option("")
    expect(page.get_by_label("Order").locator("option").first).to_have_text("By ID")
    expect(page.locator("#said")).to_contain_text("2 of 2 rows")


def test_the_best_of_a_search_are_ordered_by_a_column(page: Page) -> None:
    search(page, "garden lamp")
    page.get_by_label("Order").select_option("Price, lowest first")
    expect(page.locator("#results h3").first).to_have_text("green garden hose")
    expect(page.locator("#said")).to_contain_text("5 of 5 results")
    page.get_by_label("Order").select_option("Best first")
    expect(page.locator("#results h3").first).to_have_text("garden lamp")


def test_more_rows_than_a_page_of_the_service_are_browsed(browser: Browser, world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"thing number {n:03}") for n in range(130)))
    world.run(world.declare(template="{name}", filters=["name"], index={"type": "none"}))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=thing&sort=name")
        expect(page.locator("#said")).to_contain_text("10 of the 100 best of 130 results")
        page.goto("/?sort=id&count=120")
        assert results(page) == [f"thing number {n:03}" for n in range(120)]
        page.get_by_role("button", name="More rows").click()
        expect(page.locator("#results li")).to_have_count(130)
        expect(page.get_by_role("button", name="More rows")).to_have_count(0)
        assert complaints == []


def test_what_is_asked_is_shown_as_a_command(page: Page) -> None:
    search(page, "gardener's lamp")
    page.get_by_text("As a request to the API").click()
    command = page.locator("#request code").text_content() or ""
    ran = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    found = json.loads(ran.stdout)["results"]
    assert len(found) == 5
    assert [row["text"] for row in found[:2]] == [
        f"name: {heading}" for heading in results(page)[:2]
    ]


def test_more_results_are_added_below(browser: Browser, world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"thing number {n}") for n in range(25)))
    world.run(world.declare(template="{name}"))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=thing")
        expect(page.locator("#said")).to_contain_text("10 of 25 results")
        first = results(page)
        page.get_by_role("button", name="More results").click()
        expect(page.locator("#results li")).to_have_count(20)
        assert results(page)[:10] == first
        expect(page.locator("#results li").nth(10).locator(".primary")).to_be_focused()
        page.get_by_role("button", name="More results").click()
        expect(page.locator("#results li")).to_have_count(25)
        expect(page.get_by_role("button", name="More results")).to_have_count(0)
        assert complaints == []


def test_ways_to_rank_are_shown_side_by_side(page: Page) -> None:
    search(page, "garden lamp")

    page.get_by_text("Side by side").click()

    for way in ("Both", "Meaning", "Words"):
        column = page.get_by_role("region", name=way)
        expect(column.locator("h3").first).to_have_text("garden lamp")
    best = page.get_by_role("region", name="Meaning").locator("li").first
    expect(best).to_contain_text("Both 1")
    expect(best).to_contain_text("Words 1")
    expect(page.get_by_role("region", name="Words").locator("li")).to_have_count(3)


def test_more_like_a_row_leaves_it_out_and_goes_back(page: Page) -> None:
    search(page, "leather")

    page.get_by_role("button", name="More like this: red boots of leather").click()

    expect(page.locator("#like")).to_contain_text("More like red boots of leather")
    expect(page.locator("#results h3").first).to_have_text("red shoe")
    assert "red boots of leather" not in results(page)
    page.reload()
    expect(page.locator("#like")).to_contain_text("More like red boots of leather")
    page.get_by_role("button", name="Back to the search").click()
    expect(page.locator("#like")).to_be_hidden()
    expect(page.locator("#results h3").first).to_have_text("red boots of leather")


def test_another_entity_is_searched(browser: Browser, world: World) -> None:
    publish_shop(world)
    world.table("id bigint, name text", name="stg_big_note")
    world.insert((1, "a note of mine"), name="stg_big_note")
    world.run(world.declare("big_note", template="{name}"))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?entity=item")
        page.get_by_role("button", name="Big note").click()
        expect(page.get_by_label("Entity")).to_have_value("big_note")
        assert results(page) == ["a note of mine"]
        assert complaints == []


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
        expect(other.get_by_role("region", name="Words").locator("li")).to_have_count(2)
        assert complaints == []

    page.go_back()
    expect(page.get_by_label("light 2")).not_to_be_checked()
    expect(page.get_by_role("region", name="Meaning").locator("li")).to_have_count(5)
    page.go_back()
    expect(page.get_by_role("radio", name="Both")).to_be_checked()
    expect(page.get_by_role("region", name="Meaning")).to_have_count(0)
    page.go_back()
    expect(page.get_by_label("Search for")).to_have_value("")
    expect(page.locator("#said")).to_have_text("Some of 5 rows")


def test_rows_that_show_an_entity_are_whole_rows_and_stay_the_same(client: httpx.Client) -> None:
    (entity,) = client.get("/entities").json()["entities"]
    assert {row["id"] for row in entity["examples"]} == {"1", "2", "3", "4", "5"}
    lamp = next(row for row in entity["examples"] if row["id"] == "2")
    assert lamp["texts"] == ["name: blue lamp"]
    assert lamp["fields"] == {"category": "light", "price": 25.5}


@pytest.mark.parametrize("extra", [0, 5_000])
def test_the_text_of_an_example_is_short(world: World, extra: int) -> None:
    world.table("id bigint, name text")
    world.insert((1, "word " * (10 + extra)))
    world.run(world.declare(template="{name}"))
    with served(world.database, world.encoder) as client:
        (entity,) = client.get("/entities").json()["entities"]
    (text,) = entity["examples"][0]["texts"]
    assert json.dumps(text) == json.dumps(("word " * (10 + extra)).strip()[:1_000])
