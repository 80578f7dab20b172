"""Builds the HTTP service."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.service import openai, problems, routes
from embeddings_pipeline.service.auth import Keys
from embeddings_pipeline.service.middleware import RequestMiddleware, access_logger
from embeddings_pipeline.service.queues import Queues
from embeddings_pipeline.service.service import Service

PAGE = Path(__file__).parent / "page"
# smaller answers gain nothing; the level compresses a megabyte of JSON in some 10 ms
_COMPRESSED_BYTES, _LEVEL = 1024, 4


def create_app(pipeline: Pipeline, *, owns: bool = False) -> FastAPI:
    """Return the service of a pipeline. The caller closes the pipeline, unless the service `owns`
    it.

    Raises ConfigurationError for an invalid SEARCH_API_KEYS.
    """
    app = FastAPI(
        title="embeddings-pipeline",
        summary="Search the published vectors of dbt models.",
        description=(
            "Errors are problem details (RFC 9457), and under /v1 in the form of OpenAI's API."
            " docs/search-api.md says more."
        ),
        version="1",
        lifespan=_lifespan,
        # FastAPI's documentation pages load scripts from another host
        docs_url=None,
        redoc_url=None,
        # names of calls in generated clients
        generate_unique_id_function=lambda route: route.endpoint.__name__,
        # GET /metrics covers this; telemetry adds 0.1 ms to each request
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = Service(pipeline, owns=owns)
    app.state.keys = Keys(pipeline.settings)
    app.state.queues = Queues()
    problems.install(app)
    for router in (
        routes.search_router,
        routes.embed_router,
        openai.router,
        routes.documents_router,
        routes.state_router,
        routes.open_router,
    ):
        app.include_router(router)
    app.state.mcp = None
    # an extra, which mcp 1 is not enough for; its import takes a second
    if find_spec("mcp_types"):
        from embeddings_pipeline.service.mcp import HttpEndpoint

        app.state.mcp = HttpEndpoint(app.state.service, app.state.queues)
        app.include_router(app.state.mcp.router)
    # the default for paths without a route; a mount would also take other methods of the routes
    app.router.default = Page(StaticFiles(directory=PAGE, html=True))
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESSED_BYTES, compresslevel=_LEVEL)
    if pipeline.settings.search_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=pipeline.settings.search_cors_origins,
            allow_methods=["GET", "POST"],
            # clients of MCP and of OpenAI's API send headers of their own, and newer ones more
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(
        RequestMiddleware,
        metrics=app.state.service.counters,
        origins=pipeline.settings.search_cors_origins,
    )
    access_logger.setLevel(logging.INFO if pipeline.settings.search_access_log else logging.WARNING)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


class Page:
    """The files of the page, for requests that read. Other paths do not exist."""

    def __init__(self, files: ASGIApp) -> None:
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404)
        await self._files(scope, receive, send)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    warming = Thread(target=service.warm, name="warm")
    warming.start()
    try:
        async with app.state.mcp.manager.run() if app.state.mcp else nullcontext():
            yield
    finally:
        service.stopping.set()
        warming.join()
        service.close()


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schemas = app.openapi_schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problems.Problem.model_json_schema()
        if not app.state.keys:
            _without_security(app.openapi_schema)
    return app.openapi_schema


def _without_security(document: dict[str, Any]) -> None:
    """Remove the key requirement from the OpenAPI document."""
    document["components"].pop("securitySchemes", None)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
