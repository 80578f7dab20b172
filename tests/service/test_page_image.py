"""Searching by an image on the page, in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.support.browser import needs_chromium, opened, results
from tests.support.databases import Templates
from tests.support.gallery import BLUE, RED, clip_settings, publish_gallery
from tests.support.pictures import bomb
from tests.support.published_shop import publish_shop
from tests.support.serving import served
from tests.support.world import World

pytestmark = [needs_chromium, pytest.mark.long]

# as a browser does where someone pastes a copied picture
PASTE = """
([bytes, text]) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([new Uint8Array(bytes)], "copied.png", { type: "image/png" }));
  if (text) clipboardData.setData("text/plain", text);
  const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
  document.getElementById("query").dispatchEvent(event);
}
"""


@pytest.fixture
def url(world: World, templates: Templates, clip: Path) -> Iterator[str]:
    """A service of pictures and, beside them, of texts."""
    templates.restore(world, publish_pictures_and_items, clip)
    with served(world.database, world.encoder, **clip_settings(clip)) as client:
        yield str(client.base_url)


def publish_pictures_and_items(world: World, clip: Path) -> None:
    publish_gallery(world, clip)
    world.encoders.add(world.encoder)
    publish_shop(world, model=world.encoder.identity.model)


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page of the pictures; its console must stay silent."""
    with opened(browser, url) as (page, complaints):
        page.goto("/?entity=photo")
        yield page
        assert complaints == []


def file(name: str, data: bytes, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page: Page, name: str, data: bytes, kind: str = "image/png") -> None:
    page.get_by_label("Or by an image").set_input_files([file(name, data, kind)])


def shown(page: Page) -> list[str]:
    """The ids of the pictures that are shown, once an answer is."""
    results(page)
    return page.locator("#results .id").all_inner_texts()


def name_of_chosen(page: Page) -> str | None:
    name: str | None = page.get_by_label("Or by an image").evaluate("one => one.files[0]?.name")
    return name


def test_a_chosen_image_finds_itself_first(page: Page) -> None:
    choose(page, "my red disc.png", RED)

    assert shown(page)[0] == "1"
    page.get_by_text("Why this result").first.click()
    expect(page.locator(".reasons").first).to_have_text("Near in meaning: similarity 1.")
    expect(page.get_by_role("img", name="Image of 1")).to_be_visible()
    expect(page.locator("#like")).to_contain_text("More like my red disc.png")
    expect(page.locator("#said")).to_contain_text("3 of 3 results")
    expect(page.get_by_role("radio", name="Both")).to_be_disabled()
    assert name_of_chosen(page) == "my red disc.png"


def test_it_is_chosen_by_keyboard_alone(page: Page) -> None:
    # Playwright tells Chromium to hand choosers over without waiting until it does
    page.on("filechooser", lambda chooser: None)
    field = page.get_by_label("Or by an image")
    expect(field).to_be_visible()
    page.get_by_role("radio", name="Both").focus()
    page.keyboard.press("Tab")
    expect(field).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([file("blue.png", BLUE)])
    assert shown(page)[0] == "2"
    expect(field).to_be_focused()

    page.get_by_label("Search for").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="More like this: 2")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#like")).to_be_hidden()
    assert name_of_chosen(page) is None


def test_filters_and_more_like_a_row_go_along_with_it(page: Page) -> None:
    choose(page, "red.png", RED)
    assert shown(page)[0] == "1"

    page.get_by_role("group", name="colour").get_by_label("blue 1").check()
    expect(page.locator("#results li")).to_have_count(1)
    assert shown(page) == ["2"]
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator("#results li")).to_have_count(3)
    page.get_by_role("button", name="More like this: 2").click()
    expect(page.locator("#like strong")).to_have_text("2")
    assert "2" not in shown(page)
    page.get_by_role("button", name="Back to the search").click()
    expect(page.locator("#like strong")).to_have_text("red.png")
    expect(page.locator("#results .id").first).to_have_text("1")


def test_the_back_button_goes_from_image_to_image_and_to_the_words(page: Page) -> None:
    query = page.get_by_label("Search for")
    query.fill("a red disc")
    expect(page.locator("#results li")).to_have_count(3)
    choose(page, "red.png", RED)
    expect(page.locator("#like strong")).to_have_text("red.png")
    choose(page, "blue.png", BLUE)
    expect(page.locator("#like strong")).to_have_text("blue.png")
    expect(page.locator("#results .id").first).to_have_text("2")

    page.go_back()
    expect(page.locator("#like strong")).to_have_text("red.png")
    expect(page.locator("#results .id").first).to_have_text("1")
    assert name_of_chosen(page) == "red.png"
    page.go_back()
    expect(page.locator("#like")).to_be_hidden()
    expect(query).to_have_value("a red disc")
    assert name_of_chosen(page) is None
    page.go_forward()
    expect(page.locator("#like strong")).to_have_text("red.png")
    # nobody has the file any more
    page.reload()
    expect(page.locator("#results li")).to_have_count(3)
    expect(page.locator("#like")).to_be_hidden()


def test_typing_leaves_the_image(page: Page) -> None:
    choose(page, "red.png", RED)
    assert shown(page)[0] == "1"
    page.get_by_label("Search for").fill("disc")
    expect(page.locator("#like")).to_be_hidden()
    expect(page.get_by_role("radio", name="Both")).to_be_enabled()
    assert name_of_chosen(page) is None


def test_a_copied_picture_is_pasted_but_text_beside_it_counts_as_text(page: Page) -> None:
    expect(page.get_by_label("Or by an image")).to_be_visible()
    page.evaluate(PASTE, [list(RED), "a cell of a table"])
    expect(page.locator("#like")).to_be_hidden()
    page.evaluate(PASTE, [list(BLUE), ""])
    expect(page.locator("#like strong")).to_have_text("copied.png")
    assert shown(page)[0] == "2"


def test_an_entity_of_texts_knows_nothing_of_images(page: Page) -> None:
    field = page.locator("#by-image")
    expect(field).to_be_visible()
    choose(page, "red.png", RED)
    assert shown(page)[0] == "1"

    page.get_by_label("Entity").select_option("item")
    expect(page.locator("#said")).to_have_text("Some of 5 rows")
    expect(field).to_be_hidden()
    expect(page.locator("#like")).to_be_hidden()
    page.evaluate(PASTE, [list(RED), ""])
    expect(page.locator("#like")).to_be_hidden()
    page.get_by_label("Entity").select_option("photo")
    expect(field).to_be_visible()


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"junk", "image/png", "another format than JPEG, PNG, WEBP, GIF, BMP"),
        (bomb(60_000, 60_000), "image/png", "pixels"),
        (RED, "image/heic", "'image/heic' is not supported (types: image/jpeg"),
    ],
    ids=["junk", "bomb", "another kind"],
)
def test_what_is_no_image_is_said_in_words(
    browser: Browser, url: str, data: bytes, kind: str, said: str
) -> None:
    with opened(browser, url) as (page, _):
        page.goto("/?entity=photo")
        choose(page, "x.png", data, kind)
        expect(page.locator("#results [role=alert]")).to_contain_text(said)
        choose(page, "red.png", RED)
        assert shown(page)[0] == "1"


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen(browser: Browser, url: str, width: int) -> None:
    with opened(browser, url, viewport={"width": width, "height": 740}) as (page, complaints):
        page.goto("/?entity=photo")
        choose(page, f"{'a long name ' * 9}.png", RED)
        assert shown(page)[0] == "1"
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        assert complaints == []
