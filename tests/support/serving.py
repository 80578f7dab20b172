"""The real service on a free port of this machine, for tests that ask it over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.encoder import StreamingEncoder
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.service.app import create_app
from embeddings_pipeline.service.server import server as server_of
from embeddings_pipeline.settings import Settings
from tests.support.waiting import until
from tests.support.words import WORDS, WordsEncoder


@contextmanager
def served(
    database: Database, encoder: StreamingEncoder | None = None, *, port: int = 0, **settings: Any
) -> Iterator[httpx.Client]:
    """A client of a service over this database, with a model that knows nothing but words, unless
    the settings name another and no encoder is given beside it. Port 0 is any free one."""
    pipeline = Pipeline(
        Settings(
            _env_file=None,
            **{
                "staging_db_url": database.url,
                "pgvector_url": database.url,
                "embedding_model": WORDS.model,
                **settings,
            },
        )
    )
    if encoder or "embedding_model" not in settings:
        pipeline.encoders.add(encoder or WordsEncoder())
    with (
        closing(pipeline),
        serving(pipeline, port) as url,
        # certificates, which nothing here has, would take longer to load than the service to start
        httpx.Client(base_url=url, timeout=60, verify=False) as client,
    ):
        yield client


@contextmanager
def serving(pipeline: Pipeline, port: int = 0) -> Iterator[str]:
    """The address of a service of this pipeline, which the caller closes."""
    server = server_of(create_app(pipeline), "127.0.0.1", port)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
