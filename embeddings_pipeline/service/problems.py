"""Turns every error into problem details (RFC 9457) without internal information."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from embeddings_pipeline.errors import (
    Busy,
    ConfigurationError,
    EmbeddingsError,
    NotFound,
    ReadOnly,
    RunNeeded,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
# Retry-After of a temporary error
_RETRY_SECONDS = "2"
_STATUS: dict[type[EmbeddingsError], int] = {
    NotFound: 404,
    RunNeeded: 409,
    ReadOnly: 501,
    ConfigurationError: 422,
}

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """An error. `request_id` is also in the service's log for errors of the service."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["body.top_k: Input should be less than or equal to 1000"])
    request_id: str = Field(examples=["7f3c9a0b5d1e4f62"])


def problem(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the answer for an error."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        # the detail may quote input that is not valid UTF-8
        detail=detail.encode("utf-8", "backslashreplace").decode(),
        request_id=request.scope["request_id"],
    )
    return JSONResponse(body.model_dump(), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the app answer every error with a problem."""
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(EmbeddingsError, _of_embeddings_error)
    app.add_exception_handler(psycopg.Error, _of_database)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return problem(request, error.status_code, error.detail, dict(error.headers or {}))


async def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    # without the input, which may be long or secret
    messages = (
        f"{'.'.join(str(part)[:64] for part in found['loc'])}: {found['msg']}"
        for found in error.errors()[:10]
    )
    return problem(request, 422, "; ".join(messages))


async def _of_embeddings_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Unavailable | Busy) or not isinstance(error, ConfigurationError):
        return _unavailable(request, error)
    kind = next(kind for kind in _STATUS if isinstance(error, kind))
    return problem(request, _STATUS[kind], str(error))


async def _of_database(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, psycopg.OperationalError):
        return _unavailable(request, error)
    raise error


def _unavailable(request: Request, error: Exception) -> JSONResponse:
    logger.error("request %s: %s", request.scope["request_id"], " ".join(str(error).split()))
    detail = (
        str(error) if isinstance(error, Busy) else "the service cannot answer now: try again later"
    )
    return problem(request, 503, detail, {"Retry-After": _RETRY_SECONDS})
