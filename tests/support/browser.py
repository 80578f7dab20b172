"""A real Chromium, and a page in it that notices what goes wrong."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
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
        page.set_default_timeout(30_000)
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page, complaints


def texts(page: Page) -> list[str]:
    """The texts of the hits that are shown, once an answer is."""
    expect(page.locator("#said")).to_contain_text(re.compile("result|nothing", re.IGNORECASE))
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    return page.locator("#results .text").all_inner_texts()


def search(page: Page, query: str) -> None:
    """Type the query, and wait until the page shows its answer."""
    with page.expect_response(lambda response: response.url.endswith("/search")):
        page.get_by_label("Search for").fill(query)
