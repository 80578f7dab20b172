"""`embeddings-pipeline serve`: search over HTTP, and the page for it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.terminal import log_as_json
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(
    host: Annotated[str | None, typer.Option(help="The address, in place of SEARCH_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The port, in place of SEARCH_PORT.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer, each with its own models.")
    ] = 1,
    root_path: Annotated[
        str, typer.Option(help="The path under which a proxy shows the service, like /search.")
    ] = "",
) -> None:
    """Serve searches over HTTP, with a page. On SIGTERM, requests at work are finished first."""
    from embeddings_pipeline.service.app import create_app
    from embeddings_pipeline.service.auth import Keys, is_loopback
    from embeddings_pipeline.service.server import run_processes, server

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
    if root_path and not root_path.startswith("/"):
        raise ConfigurationError(f"--root-path {root_path!r} does not begin with /")
    root_path = root_path.rstrip("/")
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    # a wrong key ends the command, not each of its processes again and again
    Keys(settings)
    _require_free(host, port, address)
    if workers > 1:
        with TemporaryDirectory(prefix="embeddings-pipeline-") as counts:
            # before prometheus_client is imported, which then counts in files of this folder
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts
            output.print_message(f"search: {address}")
            factory = f"{__name__}:{worker.__name__}"
            run_processes(factory, host, port, workers=workers, root_path=root_path)
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal again after its shutdown, and the pipeline must be closed then
        signal.signal(number, _leave)
    with Pipeline.open(settings) as pipeline:
        app = create_app(pipeline)
        output.print_message(f"search: {address}")
        server(app, host, port, root_path=root_path).run()


def _require_free(host: str, port: int, address: str) -> None:
    """Raise ConfigurationError where nothing can listen on the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            # as a server binds: connections that have ended do not count
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {address} ({error.strerror}): choose another address with --host and"
            " --port, or SEARCH_HOST and SEARCH_PORT"
        ) from None


def worker() -> FastAPI:
    """Return the service, for a process of `serve --workers`."""
    from embeddings_pipeline.cli.main import options
    from embeddings_pipeline.service.app import create_app

    # the processes have the arguments of the command
    options(debug="--debug" in sys.argv, version=False)
    settings = Settings.load()
    if settings.log_format == "json":
        log_as_json()
    return create_app(Pipeline.open(settings), owns=True)


def _leave(number: int, frame: FrameType | None) -> None:
    raise typer.Exit
