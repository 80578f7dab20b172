"""A real Chromium, and a page in it that notices what goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

# without what a window needs, it takes a fifth less of the processor
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
# milliseconds that a busy machine may take for what a page does at once
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)
# a container has no sandbox and no GPU, and nothing here may ask the web
_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a window."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=Path(CHROMIUM), args=_ARGS, timeout=120_000
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[tuple[Page, list[str]]]:
    """A page of a browser context of its own, and all that its console complains of."""
    complaints: list[str] = []
    with browser.new_context(base_url=url, **context) as fresh:
        page = fresh.new_page()
        page.set_default_timeout(PATIENCE)
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page, complaints


def results(page: Page) -> list[str]:
    """The headings of the hits that are shown, once an answer is."""
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#said")).not_to_be_empty()
    return page.locator("#results h3").all_text_contents()


def search(page: Page, query: str) -> None:
    """Type the query, and wait until the page shows its answer."""

    def answers(response: Response) -> bool:
        asked = response.request.post_data_json if response.url.endswith("/search") else {}
        return bool(asked["query"] == query) if asked else False

    with page.expect_response(answers):
        page.get_by_label("Search for").fill(query)
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
