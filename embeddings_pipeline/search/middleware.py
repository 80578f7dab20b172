"""What surrounds every request: its id, headers for browsers, a last answer, a limit of time."""

from __future__ import annotations

import asyncio
import logging
from secrets import token_hex

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embeddings_pipeline.search import problems

# a body of the greatest size over a slow line
_BODY_SECONDS = 20
# the page has its scripts and styles in files of their own
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' https: data:; object-src 'none'; base-uri 'none';"
        " form-action 'self'; frame-ancestors 'none'"
    ),
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
            await self._app(scope, _in_time(receive), answer)
        except Exception:
            logger.exception(
                "request %s: %s %r", scope["request_id"], scope["method"], scope["path"]
            )
            if started:
                raise
            failed = problems.problem(Request(scope), 500, "the service failed; its log says why")
            await failed(scope, receive, answer)


def _in_time(receive: Receive) -> Receive:
    """Give up on a body that does not come, so that nobody waits for it for ever."""
    whole = False

    async def received() -> Message:
        nonlocal whole
        if whole:
            # what comes now is that the client is gone, whenever that is
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), _BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        whole = not message.get("more_body", False)
        return message

    return received
