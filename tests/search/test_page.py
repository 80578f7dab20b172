"""The page, in a real Chromium, from the real service over a real Postgres."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.search.browser import CHROMIUM, opened, texts
from tests.search.serving import served
from tests.world import World

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

# as its own words say, it runs where markup of a row becomes markup of the page
HOSTILE = '<img src=x onerror="document.title=\'ran\'"><script>document.title="ran"</script>'
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """The page of the shop; its console must stay silent."""
    with opened(browser, str(client.base_url)) as (page, complaints):
        page.goto("/")
        yield page
        assert complaints == []


def search(page: Page, query: str) -> None:
    """Type the query, and wait until the page shows its answer."""
    with page.expect_response(lambda response: response.url.endswith("/search")):
        page.get_by_label("Search for").fill(query)


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
    expect(page.locator("#said")).to_contain_text("5 results (5 fewer than asked for) in")


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


def test_it_is_used_by_keyboard_alone(page: Page) -> None:
    query = page.get_by_label("Search for")
    expect(page.locator("#said")).to_have_text("Type to search item.")

    page.keyboard.press("/")
    expect(query).to_be_focused()
    expect(query).to_have_value("")
    page.keyboard.type("red boots")
    expect(page).to_have_url(re.compile("q=red.boots$"))
    assert texts(page)[0] == "name: red boots of leather"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="More like this: 1")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("button", name="More like this: 4")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#like")).to_contain_text("More like 4")
    expect(page.get_by_role("button", name="More like this: 1")).to_be_focused()
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
    hybrid, dense = (page.get_by_role("region", name=name) for name in ("Hybrid", "Dense"))
    expect(dense.locator("li")).to_have_count(5)

    page.get_by_label("Search for").press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(dense.locator("button.like").first).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(hybrid.locator("button.like").first).to_be_focused()


def test_markup_in_rows_is_text(
    browser: Browser, world: World, request: pytest.FixtureRequest
) -> None:
    naughty = (request.path.parent.parent / "data" / "blns.txt").read_text().splitlines()
    strings = [line for line in naughty if line and not line.startswith("#") and "<" in line]
    world.table("id text, name text, category text")
    world.insert(
        *((f"{number} {text}", f"thing {text}", "x") for number, text in enumerate(strings)),
        (HOSTILE, f"thing {HOSTILE}", HOSTILE),
    )
    world.run(world.declare(template="{name}", filters=["category"]))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?count=50&q=thing")
        assert len(texts(page)) == 50
        page.get_by_role("checkbox", name="onerror").check()
        expect(page.locator("#results li")).to_have_count(1)
        assert texts(page) == [f"thing {HOSTILE}"]
        page.get_by_role("button", name="More like this").click()
        expect(page.locator("#like strong")).to_have_text(HOSTILE)
        assert page.locator("#search img, #search script").count() == 0
        assert page.title() != "ran"
        assert complaints == []


def test_any_query_is_answered(page: Page) -> None:
    for query in (HOSTILE, "\\", "%00", "'; drop table x; --", "א\u202e", "😀" * 90):
        search(page, query)
        texts(page)
        expect(page.get_by_label("Search for")).to_have_value(query)
        assert page.title() == f"{query} · Search"


def test_images_are_shown_where_the_text_is_one(browser: Browser, world: World) -> None:
    world.table("id bigint, uri text")
    world.insert((1, PIXEL), (2, "javascript:document.title='ran'"), (3, "data:text/html,x"))
    world.run(world.declare(template="{uri}"))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=data&mode=dense")
        image = page.get_by_role("img", name="Image of 1")
        expect(image).to_have_attribute("src", PIXEL)
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
        assert len(texts(page)) == 2
        page.get_by_role("button", name="More like this: 1").click()
        expect(page.locator("#like p")).to_have_text("More like 1")
        assert complaints == []


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
        expect(page.locator("#key-said")).to_have_text("The key is not known.")
        field.fill("ключ")
        field.press("Enter")
        expect(page.locator("#key-said")).to_contain_text("only plain letters")
        field.fill("open-sesame")
        field.press("Enter")
        assert texts(page)[0] == "name: red shoe"
        expect(field).to_be_hidden()

        page.reload()
        assert texts(page)[0] == "name: red shoe"
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
        assert "name: garden lamp" in texts(page)


def test_a_service_that_is_gone_is_said_so(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, str(client.base_url)) as (page, _):
        page.goto("/")
        expect(page.locator("#said")).to_have_text("Type to search item.")
        page.context.set_offline(True)
        page.get_by_label("Search for").fill("lamp")
        expect(page.locator("#results [role=alert]")).to_contain_text("cannot be reached")
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        assert "name: garden lamp" in texts(page)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(
    browser: Browser, client: httpx.Client, scheme: str
) -> None:
    with opened(browser, str(client.base_url), color_scheme=scheme) as (page, _):
        page.goto("/?q=lamp&mode=compare")
        texts(page)
        assert page.evaluate(FAINT) == []


# text with a contrast under 4.5 to what is behind it: WCAG 2.2, 1.4.3 and its relative luminance
FAINT = """
() => {
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3);
    }
    throw new Error("no ground");
  };
  const words = (one) =>
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((one) => one.checkVisibility() && words(one) && !one.closest(":disabled, option"))
    .map((one) => {
      const pair = [parts(getComputedStyle(one).color).slice(0, 3), ground(one)].map(luminance);
      return [one.outerHTML, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)];
    })
    .filter(([, contrast]) => contrast < 4.5);
}
"""


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
    texts(page)
    search(page, "a red shoe")
    texts(page)
    assert sum(page.evaluate("window.shifts")) < 0.1


def test_nothing_runs_but_the_pages_own_files(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "style=" not in client.get("/").text
