"""Bodies of requests that FastAPI does not read itself: it would parse them before the key is
checked and in the event loop."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

M = TypeVar("M", bound=BaseModel)


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a body of this model, for `openapi_extra`."""
    schema = model.model_json_schema()
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def require_json(request: Request) -> None:
    """Raise HTTPException 415 where the body is not JSON."""
    # another site's page cannot send this type without a CORS preflight
    if content_type(request) != "application/json":
        raise HTTPException(
            415, f"Content-Type {content_type(request)!r} is not supported: send application/json"
        )


async def read_body(request: Request) -> bytes:
    """Read a body. Raises HTTPException 400 or 413."""
    try:
        return await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the body is incomplete") from None


def content_type(request: Request) -> str:
    """Return the media type of the body, without its parameters."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def validated(model: type[M], content: bytes) -> M:
    """Return the body that this JSON holds. Raises RequestValidationError."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise RequestValidationError(
            [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        ) from None
