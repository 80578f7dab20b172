"""`embeddings-pipeline serve`: search over HTTP, and the page for it."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.terminal import log_as_json
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="The address, in place of SEARCH_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The port, in place of SEARCH_PORT.")
    ] = None,
) -> None:
    """Serve searches over HTTP, with a page. On SIGTERM, requests at work are finished first."""
    from embeddings_pipeline.service.app import create_app
    from embeddings_pipeline.service.auth import is_loopback
    from embeddings_pipeline.service.server import server

    settings = Settings.load()
    if settings.log_format == "json":
        log_as_json()
    host = host or settings.search_host
    port = settings.search_port if port is None else port
    if not settings.search_api_keys and not is_loopback(host):
        raise ConfigurationError(
            f"{host} can be reached from other machines: set SEARCH_API_KEYS"
            " (docs/search-api.md), or listen on 127.0.0.1"
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal again after its shutdown, and the pipeline must be closed then
        signal.signal(number, _leave)
    with Pipeline.open(settings) as pipeline:
        app = create_app(pipeline)
        output.print_message(f"search: http://{f'[{host}]' if ':' in host else host}:{port}")
        server(app, host, port).run()


def _leave(number: int, frame: FrameType | None) -> None:
    raise typer.Exit
