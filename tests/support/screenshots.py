"""Makes the pictures of the page in docs/ from the data of `embeddings-pipeline demo`.

`make screenshots` runs the demo first. The service is started here, on a free port.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from embeddings_pipeline.pipeline import Pipeline
from tests.support.browser import chromium, opened, results
from tests.support.serving import serving

DOCS = Path(__file__).parents[2] / "docs"
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
FOUND = "?entity=product&q=something+to+edit+photos"
PICTURES = (
    ("search-page.png", "light", DESKTOP, FOUND),
    ("search-page-first.png", "light", DESKTOP, "?entity=product"),
    ("search-page-dark.png", "dark", DESKTOP, "?entity=clip&q=make+web+pages+fast&mode=compare"),
    ("search-page-phone.png", "dark", PHONE, FOUND),
    ("search-page-state.png", "light", DESKTOP, "?tab=state"),
    ("search-page-entity.png", "light", DESKTOP, "?tab=state&of=product"),
)


def take(url: str) -> None:
    """Take each picture, once all in it is there."""
    with chromium() as browser:
        for name, scheme, size, address in PICTURES:
            with opened(browser, url, color_scheme=scheme, viewport=size) as (page, _):
                page.goto(address)
                if "tab=state" in address:
                    shown = ".declared dl" if "of=" in address else "tbody tr"
                    expect(page.locator("#entities").locator(shown).first).to_be_visible()
                else:
                    # the first search loads a model
                    results(page)
                    page.reload()
                    results(page)
                page.screenshot(path=DOCS / name)


if __name__ == "__main__":
    with Pipeline.open() as pipeline, serving(pipeline) as url:
        take(url)
