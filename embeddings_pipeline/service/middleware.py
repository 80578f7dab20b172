"""Middleware of every request: a request id, limits of the body, security headers, an answer to
unexpected errors, the refusal of other sites, counts and the access log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from secrets import token_hex

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embeddings_pipeline.service import problems
from embeddings_pipeline.service.auth import is_cross_site
from embeddings_pipeline.service.metrics import Metrics

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

# methods that change nothing
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# nginx's status for a client that closed the connection before the answer
_CLIENT_LEFT = 499

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("embeddings_pipeline.access")


class RequestMiddleware:
    """Gives each request an id, answers an unexpected error with a problem, and counts requests.

    Refuses unsafe requests of pages of other sites, except of `origins`: without keys, the browser
    of somebody on this machine could send them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: Sequence[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = token_hex(8)
        # uvicorn leaves the body out of the answer to a HEAD
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        began = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = scope["request_id"]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if scope["method"] not in _SAFE and is_cross_site(Headers(scope=scope), self._origins):
                refused = problems.problem(
                    Request(scope),
                    403,
                    "the request comes from a page of another site: SEARCH_CORS_ORIGINS names the"
                    " sites that may send it",
                )
                await refused(scope, receive, answer)
                return
            await self._app(inner, _bounded(inner, receive), answer)
        except Exception:
            logger.exception(
                "request %s: %s %r", scope["request_id"], scope["method"], scope["path"]
            )
            if status:
                raise
            failed = problems.problem(
                Request(scope), 500, "the service failed: see the log for this request id"
            )
            await failed(scope, receive, answer)
        finally:
            # a client that left before its answer has none
            self._record(inner, scope["method"], status or _CLIENT_LEFT, began)

    def _record(self, scope: Scope, method: str, status: int, began: float) -> None:
        seconds = time.perf_counter() - began
        # the operationId of the call
        operation = getattr(scope.get("endpoint"), "__name__", "page" if status < 400 else "none")
        self._metrics.requested(operation, status, seconds)
        if not access_logger.isEnabledFor(logging.INFO):
            return
        client, key = scope.get("client"), scope.get("state", {}).get("key")
        access_logger.info(
            "%s %s %d in %.1f ms",
            *(method, scope["path"], status, 1000 * seconds),
            # not the query, which may say what somebody searches
            extra={
                "fields": {
                    "request_id": scope["request_id"],
                    "method": method,
                    "path": scope["path"],
                    "operation": operation,
                    "status": status,
                    "seconds": round(seconds, 6),
                    "client": client[0] if client else None,
                    "key": key.name if key else None,
                }
            },
        )


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
                408,
                f"the body was incomplete after {BODY_SECONDS} seconds",
                {"Connection": "close"},
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
