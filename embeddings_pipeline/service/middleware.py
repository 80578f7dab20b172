"""What surrounds every request: an id, bounds of its body, headers for browsers, a last answer."""

from __future__ import annotations

import asyncio
import logging
from secrets import token_hex

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embeddings_pipeline.service import problems

# of one request: a batch of texts fits, and many at once do in memory
MAX_BODY_BYTES = 1 << 20
# where a route has said that the body of its request may be larger
_ALLOWED = "max_body_bytes"
# for all of a body over a slow line, however small the pieces that it comes in
_BODY_SECONDS = 60
# the page has its scripts and styles in files of their own
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' https: data:; object-src 'none'; base-uri 'none';"
        " form-action 'self'; frame-ancestors 'none'"
    ),
    # after an upgrade no script of the page may be older than another
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

logger = logging.getLogger(__name__)


class Outermost:
    """Gives each request an id, and an answer whatever happens."""

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
            failed = problems.problem(Request(scope), 500, "the service failed; its log says why")
            await failed(scope, receive, answer)


def allow_body(request: Request, size: int) -> None:
    """Let the body of this request have so many bytes; call it before the body is read."""
    request.scope[_ALLOWED] = size


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Give up on a body that is too long, or does not come."""
    size = 0
    whole = False
    deadline = asyncio.get_running_loop().time() + _BODY_SECONDS

    async def received() -> Message:
        nonlocal size, whole
        if whole:
            # what comes now is that the client is gone, whenever that is
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        size += len(message.get("body", b""))
        most = scope.get(_ALLOWED, MAX_BODY_BYTES)
        if size > most:
            # the rest is not waited for
            raise HTTPException(
                413, f"the body has more than {most:,} bytes", {"Connection": "close"}
            )
        whole = not message.get("more_body", False)
        return message

    return received
