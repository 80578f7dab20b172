"""Builds the HTTP service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.service import openai, problems, routes
from embeddings_pipeline.service.auth import Keys
from embeddings_pipeline.service.middleware import RequestMiddleware
from embeddings_pipeline.service.queues import Queues
from embeddings_pipeline.service.service import Service

PAGE = Path(__file__).parent / "page"


def create_app(pipeline: Pipeline) -> FastAPI:
    """Return the service of a pipeline. The caller closes the pipeline.

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
        # GET /metrics covers this; telemetry adds 0.1 ms to each request
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = Service(pipeline)
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
    # an extra; its import takes a second
    if find_spec("mcp"):
        from embeddings_pipeline.service.mcp import HttpEndpoint

        app.state.mcp = HttpEndpoint(app.state.service, app.state.queues)
        app.include_router(app.state.mcp.router)
    # the default for paths without a route; a mount would also take other methods of the routes
    app.router.default = StaticFiles(directory=PAGE, html=True)
    if pipeline.settings.search_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=pipeline.settings.search_cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(RequestMiddleware)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


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
