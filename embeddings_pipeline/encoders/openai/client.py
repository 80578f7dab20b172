"""Sends texts to an OpenAI-compatible endpoint with OpenAI's client, which retries and pauses.

Added here is what that client lacks: a deadline for a whole answer and for all tries, a limit on
the size of an answer, an end of all waiting soon after a stop, rate limits that processes share,
and the suspicion of texts for which every try fails.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.in_flight import InFlight
from embeddings_pipeline.encoders.openai.rate_limits import RateLimits
from embeddings_pipeline.encoders.openai.responses import (
    EmbeddingResponse,
    InvalidResponse,
    parse_response,
    stated_error,
)
from embeddings_pipeline.encoders.openai.truncation import is_server_length_error
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    import httpx2
    import openai

# a text that every model accepts: where it is refused, too, the texts are not at fault
PROBE = "probe"

# more than fit in the time for all tries
_MAX_RETRIES = 100
# failed tries after which the texts are suspected; a provider that is busy (429) does not count
_SUSPICIOUS_TRIES = 4
# Too Many Requests, Service Unavailable, and overloaded, which is no standard
_OVERLOADED = (429, 503, 529)
_QUOTA = re.compile(r"insufficient_quota|billing_hard_limit_reached")
# of a 429 for a request that no minute has room for, in place of one that comes too early
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
# 2,048 vectors of 4,096 dimensions, written as numbers
_MAX_BYTES = 256 << 20
_STREAMED = {"stream": True}
# interval at which a waiting thread checks whether it should stop
_STEP_SECONDS = 0.25

# how the numbers of a vector are written; with `none` the request does not say
Format = Literal["base64", "float", "none"]
_NEXT_FORMAT: dict[Format, Format] = {"base64": "float", "float": "none"}
_FORMAT_ERRORS: dict[Format, re.Pattern[str]] = {
    "base64": re.compile(r"encoding.?format|base64|\bfloats?\b", re.IGNORECASE),
    "float": re.compile(r"encoding.?format", re.IGNORECASE),
    "none": re.compile(r"(?!)"),
}


@dataclass(frozen=True)
class Timeouts:
    """Limits in seconds: of one answer as a whole, of all tries with their pauses, and of an answer
    in flight after a stop."""

    answer: float = 60.0
    total: float = 300.0
    # such an answer is already billed; with the step of the wait a stop takes two seconds
    grace: float = 1.5


@dataclass
class Learnt:
    """What a model's answers showed, for the life of the process: the format to ask for, and the
    most texts and tokens in one request."""

    format: Format = "base64"
    max_texts: int | None = None
    max_tokens: int | None = None


@cache
def learnt_about(url: str, model: str) -> Learnt:
    """Return what this process learnt about a model at an address."""
    return Learnt()


class Refusal(Exception):
    """The provider gives no vectors for these texts; the texts or the provider may be at fault.

    `error` is what the refusal means where the provider is at fault. `message` is the provider's
    whole message; it may contain the key: do not show it. `may_pass` says that another try may
    succeed. `tokens` were billed.
    """

    def __init__(
        self,
        reason: str,
        error: EmbeddingsError,
        *,
        message: str = "",
        may_pass: bool = False,
        tokens: int = 0,
    ) -> None:
        super().__init__(reason)
        self.error = error
        self.message = message
        self.may_pass = may_pass
        self.tokens = tokens


@dataclass
class _Call:
    """One call of OpenAI's client, with its tries. `last` is why the last try failed, and `total`
    ends all tries."""

    tokens: int
    stopped: Event
    is_probe: bool
    is_query: bool
    tries: int = 0
    failed: int = 0
    last: str = ""
    sending: bool = False
    total: asyncio.Timeout | None = None

    def fails(self, reason: str) -> bool:
        """Note a failed try. Returns whether the texts are suspected now."""
        self.last = reason
        self.failed += 1
        return self.failed >= _SUSPICIOUS_TRIES and not self.is_probe


_current_call: ContextVar[_Call] = ContextVar("call")


class Client:
    """Sends requests for the vectors of one model. Thread-safe.

    `format` is the only one to ask for; by default the client finds one that works. At most
    `in_flight` requests are sent at a time, fewer where the provider is slow or refuses them.
    """

    def __init__(
        self,
        model: str,
        endpoint: Endpoint,
        limits: RateLimits | None,
        timeouts: Timeouts,
        *,
        in_flight: int,
        format: Format | None = None,
    ) -> None:
        import openai

        self.learnt = learnt_about(endpoint.url, model)
        self._format = format
        self._model = model
        self._endpoint = endpoint
        self._timeouts = timeouts
        # the client requires a key, even for an endpoint without one
        key = endpoint.key.get_secret_value() if endpoint.key else "none"
        self._headers: dict[str, str | openai.Omit] = (
            {"api-key": key, "Authorization": openai.omit} if endpoint.is_azure else {}
        )
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=endpoint.base_url,
            default_query=endpoint.query,
            timeout=timeouts.answer,
            max_retries=_MAX_RETRIES,
            http_client=_http_client(limits, timeouts, InFlight(in_flight)),
        )

    def close(self) -> None:
        """Close the connections."""
        deadline.call(self._client.close(), self._timeouts.answer)

    def send(
        self,
        texts: Sequence[str],
        *,
        tokens: int,
        dimension: int | None = None,
        shortened: bool = False,
        is_query: bool = False,
        stopped: Event,
        billed: Callable[[int], None] = lambda tokens: None,
    ) -> EmbeddingResponse:
        """Return the vectors of texts of about `tokens` tokens. A query waits for no other request.

        `billed` is called with the tokens of each answer, usable or not; with `tokens` where the
        answer does not say. `shortened` requests fewer dimensions than the model's full one.

        Raises Refusal where the texts or the provider may be at fault, ConfigurationError for a
        redirect, and EmbeddingsError for an exhausted quota, an answer that leaves open which
        vector is whose, no answer in time, or a stop.
        """
        body: dict[str, object] = {"model": self._model, "input": [*texts]}
        if shortened and dimension:
            body["dimensions"] = dimension
        wasted = 0
        while True:
            # other threads may change it meanwhile
            format = self._format or self.learnt.format
            encoding = {} if format == "none" else {"encoding_format": format}
            call = _Call(tokens, stopped, is_probe=[*texts] == [PROBE], is_query=is_query)
            try:
                content = self._post(body | encoding, call)
                answer = parse_response(content, texts, dimension)
            except InvalidResponse as error:
                cost = tokens if error.tokens is None else error.tokens
                billed(cost)
                wasted += cost
                if not (error.other_format and format == "base64" and not self._format):
                    raise self._unusable(error, wasted) from None
            except Refusal as refusal:
                if self._format or not _FORMAT_ERRORS[format].search(refusal.message):
                    raise
            else:
                billed(tokens if answer.tokens is None else answer.tokens)
                return answer
            # requested once in the next format, which is kept
            self.learnt.format = _NEXT_FORMAT[format]

    def _unusable(self, error: InvalidResponse, tokens: int) -> Exception:
        reason = self._endpoint.redacted(str(error))
        ended = EmbeddingsError(
            f"an answer of {self._endpoint.host} for {self._model!r} cannot be used: {reason}. No"
            " vector of this answer was stored"
        )
        if not error.texts_suspected:
            return ended
        return Refusal(f"the answer cannot be used: {reason}", ended, may_pass=True, tokens=tokens)

    def _post(self, body: dict[str, object], call: _Call) -> bytes:
        """Return the body of the answer."""
        import openai

        started = time.monotonic()
        future = deadline.start(self._tries(body, call), None)
        while not future.done():
            wait([future], timeout=_STEP_SECONDS)
            if call.stopped.is_set():
                wait([future], timeout=self._timeouts.grace if call.sending else 0)
                future.cancel()
        try:
            return future.result()
        except openai.APIStatusError as error:
            message = _message(error.response.text)
            reason = f"{error.status_code}: {self._endpoint.redacted(message)}"
            if raised := self._classified(error, reason, message):
                raise raised from None
        except (openai.APIConnectionError, _Lost) as error:
            reason = self._endpoint.redacted(_cause(error))
        except TimeoutError:
            reason = self._endpoint.redacted(call.last or "no answer")
        except CancelledError:
            raise EmbeddingsError(
                f"stopped before the response came ({call.tries} tries"
                f"{f', {self._endpoint.redacted(call.last)}' if call.last else ''})"
            ) from None
        ended = EmbeddingsError(
            f"{self._endpoint.host} returned no vectors of {self._model!r} in {call.tries} tries"
            f" and {time.monotonic() - started:.0f} s ({reason}): run again to continue"
        )
        if call.failed < _SUSPICIOUS_TRIES:
            raise ended
        raise Refusal(
            f"the provider fails on this text and no other ({reason})", ended, may_pass=True
        )

    async def _tries(self, body: dict[str, object], call: _Call) -> bytes:
        import httpx2

        _current_call.set(call)
        async with asyncio.timeout(self._timeouts.total) as call.total:
            response = await self._client.post(
                "/embeddings",
                cast_to=httpx2.Response,
                body=body,
                options={"headers": self._headers},
            )
        content: bytes = response.content
        return content

    def _classified(
        self, error: openai.APIStatusError, reason: str, message: str
    ) -> Exception | None:
        """Return the error that an HTTP status means; None where retries did not solve it."""
        host, status = self._endpoint.host, error.status_code
        if status == 402 or _QUOTA.search(error.response.text):
            return EmbeddingsError(f"the quota at {host} is exhausted ({reason})")
        if 300 <= status < 400:
            to = self._endpoint.redacted(error.response.headers.get("location", "another address"))
            return ConfigurationError(
                f"{host} redirects to {to} ({status}), and redirects are not followed: set"
                " OPENAI_BASE_URL to the provider's address"
            )
        if _may_pass(status, message):
            return None
        if status in (401, 403):
            meaning = (
                f"{host} does not accept the key ({reason}): set OPENAI_API_KEY to one that may use"
                f" {self._model!r}"
            )
        elif status == 404:
            meaning = (
                f"{host} has no model {self._model!r} ({reason}): check the name and"
                " OPENAI_BASE_URL"
            )
        else:
            meaning = f"{host} rejects even the text {PROBE!r} ({reason})"
        error_of_provider = ConfigurationError(meaning)
        return Refusal(f"{host} rejects the text ({reason})", error_of_provider, message=message)


def _is_lost(status: int) -> bool:
    # Request Timeout and Conflict, which OpenAI's client retries like server errors, and Failed
    # Dependency, by which text-embeddings-inference says that its model failed
    return status in (408, 409, 424) or status >= 500


def _may_pass(status: int, message: str) -> bool:
    """Whether the same request may succeed later."""
    if status == 429:
        return not (_QUOTA.search(message) or _TOO_LARGE.search(message))
    return _is_lost(status) and not is_server_length_error(message)


def _message(body: str) -> str:
    """Return a provider's words."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body
    return stated_error(found) or (found if isinstance(found, str) else json.dumps(found))


def _cause(error: BaseException) -> str:
    """Return what is known about a lost answer: a refused connection is the cause of a cause."""
    first = error
    while True:
        cause = first.__cause__ or (None if first.__suppress_context__ else first.__context__)
        if cause is None:
            return str(first) or str(error) or type(error).__name__
        first = cause


class _Lost(Exception):
    """No complete answer came."""


def _http_client(
    limits: RateLimits | None, timeouts: Timeouts, in_flight: InFlight
) -> httpx2.AsyncClient:
    """Return OpenAI's HTTP client, with limits for each try and without redirects.

    A redirect would send the texts to another host than the configured one.
    """
    import httpx2
    import openai

    class Limited(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            call = _current_call.get()
            async with _admitted(call, limits, in_flight):
                return await self._sent(call, request, **options)

        async def _sent(
            self, call: _Call, request: httpx2.Request, **options: Any
        ) -> httpx2.Response:
            call.tries += 1
            call.sending = True
            sent_at = time.monotonic()
            try:
                async with asyncio.timeout(timeouts.answer):
                    response = await _read(await super().send(request, **options | _STREAMED))
                if response.is_success and response.content.lstrip()[:1] == b"<":
                    # a page of a proxy in front of the provider, which has billed nothing
                    page = " ".join(re.sub(r"<[^>]*>", " ", response.text).split())
                    raise _Lost(f"the response is an HTML page, not JSON: {page}")
            except (TimeoutError, httpx2.RequestError, _Lost) as error:
                reason = _cause(error)
                if isinstance(error, TimeoutError):
                    reason = f"no complete response in {timeouts.answer:g} s"
                    in_flight.refused(sent_at)
                if call.fails(reason):
                    raise _Lost(reason) from None
                # OpenAI's client retries this class
                raise httpx2.RemoteProtocolError(reason, request=request) from None
            finally:
                call.sending = False
            if response.is_success:
                in_flight.answered(call.tokens, time.monotonic() - sent_at)
            else:
                if response.status_code in _OVERLOADED:
                    in_flight.refused(sent_at)
                _advise_retries(response, call)
            return response

    return Limited(
        # a few bytes of some codings could expand to gigabytes
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
    )


async def _read(answer: httpx2.Response) -> httpx2.Response:
    """Return a whole answer with its body. Raises _Lost for one that is too large, and
    InvalidResponse for one that cannot be decompressed. Such an error keeps its status alone.

    Some proxies compress against the request. Gzip and deflate expand each part that is read at
    most a thousand times, so these are decompressed; other codings may expand it to any size.
    """
    import httpx2

    headers = answer.headers.copy()
    coding = headers.pop("content-encoding", "identity").lower()
    body = bytearray()
    try:
        known = coding in ("gzip", "deflate")
        async for part in answer.aiter_bytes() if known else answer.aiter_raw():
            body += part
            if len(body) > _MAX_BYTES:
                raise _Lost(f"the response has more than {_MAX_BYTES:,} bytes")
    finally:
        await answer.aclose()
    # a server may name a coding that is none, such as utf-8
    if not (known or coding == "identity" or body.isascii()):
        if answer.is_success:
            raise InvalidResponse(
                f"it is compressed ({coding}), which the request does not allow: change the proxy"
                " in front of the provider",
                texts_suspected=False,
            )
        body.clear()
    return httpx2.Response(
        answer.status_code, headers=headers, content=bytes(body), request=answer.request
    )


@asynccontextmanager
async def _admitted(
    call: _Call, limits: RateLimits | None, in_flight: InFlight
) -> AsyncIterator[None]:
    """Wait for our own limits, which does not count as waiting for the provider; the request is in
    flight until the end of the block."""
    loop, total, left = asyncio.get_running_loop(), call.total, None
    if total and (until := total.when()) is not None:
        left = until - loop.time()
        total.reschedule(None)
    # somebody waits for the answer to a query
    async with nullcontext() if call.is_query else in_flight.slot():
        if limits:
            await asyncio.to_thread(limits.wait, call.tokens, call.stopped)
        if total and left is not None:
            total.reschedule(loop.time() + left)
        yield


def _advise_retries(response: httpx2.Response, call: _Call) -> None:
    """Set the header by which OpenAI's client decides whether to try again."""
    status, text = response.status_code, response.text
    if status != 429 and not _is_lost(status):
        return
    call.last = f"{status}: {_message(text)}"
    suspected = _is_lost(status) and call.fails(call.last)
    again = _may_pass(status, text) and not suspected
    response.headers["x-should-retry"] = str(again).lower()
