"""Middleware of every request: a request id, limits of the body, security headers, and an answer to
unexpected errors."""

from __future__ import annotations

import asyncio
import logging
from secrets import token_hex

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embeddings_pipeline.service import problems

# enough for a batch of texts, and small enough for many requests in memory
MAX_BODY_BYTES = 1 << 20
# key of the scope under which `allow_body` stores a larger limit
_ALLOWED = "max_body_bytes"
# time for a whole body, in any number of pieces
BODY_SECONDS = 60
# headers of every answer; the page's scripts and styles are separate files
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' https: data:; object-src 'none'; base-uri 'none';"
        " form-action 'self'; frame-ancestors 'none'"
    ),
    # after an upgrade, scripts of different versions must not be mixed
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Gives each request an id, and answers an unexpected error with a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = token_hex(8)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = scope["request_id"]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, _bounded(scope, receive), answer)
        except Exception:
            logger.exception(
                "request %s: %s %r", scope["request_id"], scope["method"], scope["path"]
            )
            if started:
                raise
            failed = problems.problem(
                Request(scope), 500, "the service failed: see the log for this request id"
            )
            await failed(scope, receive, answer)


def allow_body(request: Request, size: int) -> None:
    """Allow a body of `size` bytes for this request. Call this before the body is read."""
    request.scope[_ALLOWED] = size


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that raises HTTPException 413 for a large body and 408 for a slow one."""
    size = 0
    whole = False
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    async def received() -> Message:
        nonlocal size, whole
        if whole:
            # the next message is the client's disconnect, at any time
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                408, f"the body was incomplete after {BODY_SECONDS} seconds"
            ) from None
        size += len(message.get("body", b""))
        most = scope.get(_ALLOWED, MAX_BODY_BYTES)
        if size > most:
            # close the connection without reading the rest
            raise HTTPException(
                413, f"the body has more than {most:,} bytes", {"Connection": "close"}
            )
        whole = not message.get("more_body", False)
        return message

    return received
