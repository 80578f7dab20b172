"""Turns every error into problem details (RFC 9457), or OpenAI's form of an error under /v1,
without internal information."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
from embeddings_pipeline.search.requests import describe_invalid
from embeddings_pipeline.store.connection import NoConnection

MEDIA_TYPE = "application/problem+json"
# paths whose errors have OpenAI's form
OPENAI_PREFIX = "/v1"
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


class OpenAIError(BaseModel):
    """An error in the form of OpenAI's API; the header `X-Request-ID` has the id of the request."""

    message: str = Field(examples=["body.input: Field required"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(None, examples=["input"])
    code: str | None = Field(None, examples=[None])


class OpenAIErrorBody(BaseModel):
    """The body of an error under /v1."""

    error: OpenAIError


class ParameterError(HTTPException):
    """An error of one parameter of a call."""

    def __init__(self, status: int, detail: str, param: str) -> None:
        super().__init__(status, detail)
        self.param = param


def problem(
    request: Request,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
) -> JSONResponse:
    """Return the answer for an error. `param` is the parameter that caused it, where one did."""
    found = describe(request, status, detail)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if path.startswith(f"{OPENAI_PREFIX}/"):
        error = OpenAIError(
            message=found.detail,
            type=_openai_type(status),
            param=param,
            code=_openai_code(status, param),
        )
        return JSONResponse(OpenAIErrorBody(error=error).model_dump(), status, headers)
    return JSONResponse(found.model_dump(), status, headers, media_type=MEDIA_TYPE)


def describe(request: Request, status: int, detail: str) -> Problem:
    """Return the problem of a request."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        # the detail may quote input that is not valid UTF-8
        detail=detail.encode("utf-8", "backslashreplace").decode(),
        request_id=request.scope["request_id"],
    )


def install(app: FastAPI) -> None:
    """Make the app answer every error with a problem."""
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(EmbeddingsError, _of_error)
    app.add_exception_handler(psycopg.Error, _of_error)


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


def openai_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of these statuses under /v1."""
    return {
        status: {"description": HTTPStatus(status).phrase, "model": OpenAIErrorBody}
        for status in statuses
    }


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "requests"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def _openai_code(status: int, param: str | None) -> str | None:
    codes = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
    return "model_not_found" if (status, param) == (404, "model") else codes.get(status)


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    param = error.param if isinstance(error, ParameterError) else None
    return problem(request, error.status_code, error.detail, error.headers, param)


async def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    wrong = error.errors()[0]["loc"][1:2]
    param = str(wrong[0])[:64] if wrong else None
    return problem(request, 422, describe_invalid(error.errors()), param=param)


def of_error(request: Request, error: EmbeddingsError | psycopg.Error) -> Problem:
    """Return the problem of an error, and log an error of the service. Raises an error of the
    database that is not temporary."""
    if isinstance(error, ConfigurationError) and not isinstance(error, Unavailable | Busy):
        kind = next(kind for kind in _STATUS if isinstance(error, kind))
        return describe(request, _STATUS[kind], str(error))
    if isinstance(error, psycopg.Error) and not isinstance(error, psycopg.OperationalError):
        raise error
    work = f"request {request.scope['request_id']}"
    return describe(request, 503, message_of(error, work, shown=Busy))


def message_of(
    error: EmbeddingsError | psycopg.OperationalError, work: str, *, shown: type[EmbeddingsError]
) -> str:
    """Return the message of an error for a client. An error that is not `shown` may have internal
    information, as one of the database or of a model has: it is logged with the `work` that failed.
    """
    if isinstance(error, shown) and not isinstance(error, Unavailable):
        return str(error)
    logger.error("%s: %s", work, " ".join(str(error).split()))
    if isinstance(error, NoConnection):
        return "the database takes no connection now: try again later; the service's log says why"
    return "the service cannot answer now: try again later"


async def _of_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EmbeddingsError | psycopg.Error)  # noqa: S101 - registered for these
    found = of_error(request, error)
    headers = {"Retry-After": _RETRY_SECONDS} if found.status == 503 else None
    return problem(request, found.status, found.detail, headers)
