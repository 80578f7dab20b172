"""Nothing that a row or a query holds becomes a part of the page, or runs in it."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import needs_chromium, opened, results, search
from tests.support.serving import served
from tests.support.world import World

pytestmark = [needs_chromium, pytest.mark.long]

# milliseconds that counting many rows may take on a busy machine
LONG = 60_000
# as its own words say, it runs where markup of a row becomes markup of the page
HOSTILE = '<img src=x onerror="document.title=\'ran\'"><script>document.title="ran"</script>'
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


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
        assert len(results(page)) == 50
        page.get_by_role("checkbox", name="onerror").check()
        expect(page.locator("#results li")).to_have_count(1)
        assert results(page) == [f"thing {HOSTILE}"]
        page.get_by_role("button", name="More like this").click()
        expect(page.locator("#like strong")).to_have_text(f"thing {HOSTILE}")
        assert page.locator("#search img, #search script").count() == 0
        assert page.title() != "ran"
        assert complaints == []


def test_many_rows_with_odd_values_are_searched_filtered_and_browsed(
    browser: Browser, world: World
) -> None:
    world.table("id text, name text, maker text, price float8, made date")
    world.sql(
        """
        insert into staging.stg_item
        select n || (array['', ' / ?#%', E'\\n\\t', '\u202e', '😀'])[1 + n % 5],
            'thing ' || n
                || (array['', E' a\\u200bb', ' <b>bold</b>'])[1 + n % 3]
                || case when n % 500 = 0 then repeat(' long', 400) else '' end,
            (array['maker ' || n % 3000, '', ' ', null, '<i>', E'two\\nlines'])[1 + n % 6],
            (array[n::float8, 'nan', 'infinity', '-infinity', null, -0.0, 1e300])[1 + n % 7],
            (array['2026-01-01', 'infinity', '0044-03-15 BC', null])[1 + n % 4]::date
        from generate_series(1, 24000) as n
        """
    )
    filters = ["maker", "price", "made"]
    world.run(world.declare(template="{name}", filters=filters, index={"type": "none"}))
    with (
        served(world.database, world.encoder) as client,
        opened(browser, str(client.base_url)) as (page, complaints),
    ):
        page.goto("/?q=thing")
        expect(page.locator("#said")).to_contain_text("10 of 24,000 results", timeout=LONG)
        makers = page.get_by_role("group", name="Maker")
        makers.get_by_label("Find a value of Maker").fill("maker 2994")
        makers.get_by_role("checkbox", name="maker 2994").check(timeout=LONG)
        expect(page.locator("#said")).not_to_contain_text("24,000", timeout=LONG)
        expect(page.locator("#results li").first).to_contain_text("maker 2994", timeout=LONG)
        page.get_by_role("button", name="Clear all").click()
        expect(page.locator("#said")).to_contain_text("10 of 24,000 results", timeout=LONG)

        page.goto("/?sort=-price&count=60")
        expect(page.locator("#results li")).to_have_count(60, timeout=LONG)
        page.get_by_role("button", name="More rows").click()
        expect(page.locator("#results li")).to_have_count(120, timeout=LONG)
        assert complaints == []


def test_any_query_is_answered(page: Page) -> None:
    for query in (HOSTILE, "\\", "%00", "'; drop table x; --", "א\u202e", "😀" * 90):
        search(page, query)
        results(page)
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
        assert len(results(page)) == 3
        page.get_by_role("button", name="More like this: 1").click()
        expect(page.locator("#like p")).to_have_text("More like 1")
        assert complaints == []


def test_nothing_runs_but_the_pages_own_files(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "style=" not in client.get("/").text
