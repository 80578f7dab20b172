"""An image as the body of a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from starlette.requests import ClientDisconnect

from embeddings_pipeline.encoders.pixels import FORMATS
from embeddings_pipeline.search.middleware import allow_body
from embeddings_pipeline.search.service import Asked

_TYPES = [f"image/{kind.lower()}" for kind in FORMATS]
# for the OpenAPI document: FastAPI knows only of bodies that it reads itself
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, of at most EMBEDDING_IMAGE_MAX_BYTES (20 MiB).",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _TYPES},
    }
}


async def _image(request: Request, asked: Asked) -> bytes:
    """The body, read after the key was looked at. Raises HTTPException 400, 413 or 415."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    # a page of another site cannot send these unasked
    if kind not in _TYPES:
        raise HTTPException(415, f"Content-Type: {kind!r} is none of these: {', '.join(_TYPES)}")
    allow_body(request, asked.pipeline.settings.embedding_image_max_bytes)
    try:
        return await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the body ended before it was whole") from None


Image = Annotated[bytes, Depends(_image)]
