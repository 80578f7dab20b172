"""Makes the pictures of the page and of the Dagster UI in docs/ from the data of
`embeddings-pipeline demo`.

`make screenshots` runs the demo first. Service and UI are started here, on free ports.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from playwright.sync_api import expect

from embeddings_pipeline.pipeline import Pipeline
from tests.support.browser import chromium, opened, results
from tests.support.service_process import command, free_port
from tests.support.serving import serving
from tests.support.waiting import until

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
GRAPH = {"width": 1700, "height": 560}
GROUP = "/locations/__repository__@embeddings_pipeline.definitions/asset-groups/product/lineage"


def take_page(url: str) -> None:
    """Take each picture of the page, once all in it is there."""
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


def take_dagster(url: str) -> None:
    """Take the picture of an entity's assets, once Dagster shows the state of each."""
    with (
        chromium() as browser,
        opened(browser, url, color_scheme="light", viewport=GRAPH) as (page, _),
    ):
        page.goto(GROUP)
        for asset in ("texts", "vectors", "index", "embeddings"):
            expect(page.get_by_text(asset, exact=True).first).to_be_visible(timeout=120_000)
        expect(page.get_by_text("100% filled")).to_have_count(2)
        expect(page.get_by_text("Materialized", exact=True)).to_have_count(2)
        page.screenshot(path=DOCS / "dagster-ui.png")


@contextmanager
def dagster_ui() -> Iterator[str]:
    """The address of `embeddings-pipeline dev`, once it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/server_info").is_success
        return False

    process = subprocess.Popen(command("dev", "--port", str(port)))
    try:
        until(answers)
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    with Pipeline.open() as pipeline, serving(pipeline) as url:
        take_page(url)
    with dagster_ui() as url:
        take_dagster(url)
