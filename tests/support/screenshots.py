"""Makes the pictures in docs/ from a service over the data of `embeddings-pipeline demo`.

embeddings-pipeline serve --port 8080 &
python -m tests.support.screenshots http://127.0.0.1:8080
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.support.browser import chromium, opened

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = (
    ("search-page.png", "light", "?entity=product&q=draw+pictures&mode=compare"),
    ("search-page-dark.png", "dark", "?entity=clip&q=how+to+make+web+pages+load+faster"),
    ("search-page-state.png", "light", "?tab=state"),
)


def take(url: str) -> None:
    """Take each picture, once all in it is there."""
    with chromium() as browser:
        for name, scheme, address in PICTURES:
            size = {"width": 1280, "height": 860}
            with opened(browser, url, color_scheme=scheme, viewport=size) as (page, _):
                page.goto(address)
                # the first time it is measured how long a model takes to load
                page.reload(wait_until="networkidle")
                expect(page.locator("#results li, #entities article").first).to_be_visible()
                page.screenshot(path=DOCS / name)


if __name__ == "__main__":
    take(sys.argv[1])
