"""Sends texts to an OpenAI-compatible endpoint, retries transient errors, and limits the time and
size of responses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_exponential_jitter,
    wait_random,
)

from embeddings_pipeline.encoders.batching import Item
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Stop, Usage
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.rate_limits import RateLimits
from embeddings_pipeline.encoders.openai.responses import (
    EmbeddingResponse,
    InvalidResponse,
    RejectedInput,
    RetriesExhausted,
    TransientError,
    classify_error,
    parse_json,
    parse_response,
)
from embeddings_pipeline.encoders.openai.truncation import (
    estimate,
    truncate,
    truncate_to_reported_limit,
)
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    import httpx2


_FINITE_TRIES = 3


class RequestText(NamedTuple):
    """A text as it is sent; `truncated` says that only its beginning is sent."""

    text: str
    truncated: bool


def truncate_texts(texts: Sequence[Item[str]], max_tokens: int) -> list[Item[RequestText]]:
    """Count the tokens of texts, and cut texts of more than `max_tokens`."""
    return [
        Item(item.place, RequestText(text, before > max_tokens), tokens)
        for item, before in zip(texts, estimate([item.content for item in texts]), strict=True)
        for text, tokens in [truncate(item.content, before, max_tokens)]
    ]


class Session:
    """The state that all requests of a stream share: their parameters and the first error.

    Once `stopping` returns true, or a request fails, nothing more is sent and no request waits
    long.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        dimension: int,
        shortened: bool,
        stopping: Callable[[], bool],
    ) -> None:
        self.dimension = dimension
        self._requests = requests
        self._shortened = shortened
        self._stopped = Stop(stopping)
        self._error: BaseException | None = None
        self._lock = Lock()
        self._probing = Lock()
        self._probed = False

    def send(
        self, texts: Sequence[str], tokens: int, billed: Callable[[int], None], *, fail_fast: bool
    ) -> EmbeddingResponse:
        """Send texts; see `Requests.send`. Raises EmbeddingsError once the session is stopped."""
        self.check()
        return self._requests.send(
            texts,
            tokens=tokens,
            dimension=self.dimension,
            shortened=self._shortened,
            fail_fast=fail_fast,
            stopped=self._stopped,
            billed=billed,
        )

    def probe(self, billed: Callable[[int], None]) -> None:
        """Check once that the provider accepts a short text.

        Raises ConfigurationError where the provider rejects that text too.
        """
        with self._probing:
            if self._probed:
                return
            try:
                self.send([PROBE], 1, billed, fail_fast=False)
            except RejectedInput as refusal:
                raise ConfigurationError(
                    f"the provider rejects even the text {PROBE!r}: {refusal}"
                ) from None
            self._probed = True

    def check(self) -> None:
        """Raise EmbeddingsError once the session is stopped."""
        if self.stopped:
            raise EmbeddingsError("stopped before all texts were sent: run again to continue")

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return self._stopped.is_set()

    def close(self) -> None:
        """Stop the session and end the pauses between retries."""
        self._stopped.set()

    def failed(self, error: BaseException) -> BaseException:
        """Stop the session for an error. Returns the first error, the cause of later ones."""
        with self._lock:
            self._error = self._error or error
        self.close()
        return self._error


def send_batch(session: Session, batch: Sequence[Item[RequestText]]) -> Iterator[EncodedBatch]:
    """Send a batch and yield its vectors, also those that were billed before an error.

    Raises the errors of `Requests.send` except RejectedInput, ConfigurationError where the provider
    rejects every text, and the error of another batch that failed first.
    """
    call = _BatchRequest(session, batch)
    error = None
    try:
        call.run()
    # vectors that were paid for are yielded before the error is raised
    except BaseException as raised:
        error = session.failed(raised)
    read = [i for i in range(len(batch)) if i not in call.unread]
    if read or call.tokens:
        yield EncodedBatch(
            [batch[i].place for i in read],
            Encodings(
                call.vectors[read],
                Usage(
                    texts=len(read) - len(call.failures),
                    tokens=call.tokens,
                    truncated=len(call.truncated.intersection(read)),
                ),
                {n: call.failures[i] for n, i in enumerate(read) if i in call.failures},
            ),
        )
    if error:
        raise error


class _BatchRequest:
    """The texts of a batch and their results. A text that has a vector is never sent again.

    `vectors` has the shape (texts, dimension); rows at the indexes in `failures` and `unread` have
    no meaning. `truncated` holds the indexes of texts that were cut. `tokens` were billed.
    """

    def __init__(self, session: Session, batch: Sequence[Item[RequestText]]) -> None:
        self._session = session
        self._texts = [item.content.text for item in batch]
        self._lengths = [item.tokens for item in batch]
        self.vectors: Vectors = np.zeros((len(batch), session.dimension), np.float32)
        # OpenAI rejects a whole request for one empty text
        self.failures = {i: "the text is empty" for i, text in enumerate(self._texts) if not text}
        self.unread = {*range(len(batch))} - {*self.failures}
        self.truncated = {i for i, item in enumerate(batch) if item.content.truncated}
        self.tokens = 0

    def run(self) -> None:
        """Send all texts."""
        if self.unread:
            self._take(sorted(self.unread))

    def _take(
        self, batch: list[int], tries: int = _FINITE_TRIES, *, fail_fast: bool = False
    ) -> None:
        try:
            answer = self._send(
                [self._texts[i] for i in batch],
                sum(self._lengths[i] for i in batch),
                fail_fast=fail_fast,
            )
        except RejectedInput as refusal:
            self._divide(batch, refusal, fail_fast=fail_fast)
            return
        except RetriesExhausted as error:
            self._isolate(batch, error)
            return
        finite = [bool(np.isfinite(vector).all()) for vector in answer.vectors]
        self.vectors[batch] = answer.vectors
        left = [i for i, is_finite in zip(batch, finite, strict=True) if not is_finite]
        self.unread -= {*batch} - {*left}
        if left and tries > 1:
            self._take(left, tries - 1, fail_fast=fail_fast)
        elif left:
            self._fail(left, f"the provider's vector is not finite, {_FINITE_TRIES} times")

    def _send(
        self, texts: Sequence[str], tokens: int, *, fail_fast: bool = False
    ) -> EmbeddingResponse:
        return self._session.send(texts, tokens, self._bill, fail_fast=fail_fast)

    def _bill(self, tokens: int) -> None:
        self.tokens += tokens

    def _isolate(self, batch: list[int], error: RetriesExhausted) -> None:
        """Find the texts that make the provider fail, by halving the batch.

        A probe before each step makes sure that the provider still accepts other texts.
        """
        if self._session.stopped or not error.last.input_suspected:
            raise error
        try:
            self._send([PROBE], 1, fail_fast=True)
        except (RetriesExhausted, RejectedInput):
            raise error from None
        if len(batch) == 1:
            self._fail(batch, f"the provider fails on this text and no other ({error.last})")
            return
        half = len(batch) // 2
        self._take(batch[:half], fail_fast=True)
        self._take(batch[half:], fail_fast=True)

    def _divide(self, batch: list[int], refusal: RejectedInput, *, fail_fast: bool) -> None:
        """Find the rejected texts by halving the batch, and cut those that are too long."""
        self._session.probe(self._bill)
        if len(batch) > 1:
            half = len(batch) // 2
            self._take(batch[:half], fail_fast=fail_fast)
            self._take(batch[half:], fail_fast=fail_fast)
            return
        (index,) = batch
        shorter = truncate_to_reported_limit(self._texts[index], refusal.full_message)
        if shorter is None:
            self._fail(batch, str(refusal))
            return
        self._texts[index] = shorter
        self._lengths[index] = estimate([shorter])[0]
        self.truncated.add(index)
        self._take(batch, fail_fast=fail_fast)

    def _fail(self, batch: Sequence[int], reason: str) -> None:
        self.failures |= dict.fromkeys(batch, reason)
        self.unread -= {*batch}


# a text that every model accepts
PROBE = "probe"

_FORMAT_ERROR = re.compile(r"encoding.?format|base64|\bfloats?\b", re.IGNORECASE)
# an invalid response is billed like a valid one
_MAX_INVALID_RESPONSES = 4
# tries where the texts themselves may cause the failure
_FAIL_FAST_TRIES = 3


@dataclass(frozen=True)
class RetryTimes:
    """Limits in seconds: of one response, the first pause, the longest pause, and all tries."""

    answer: float = 60.0
    first: float = 0.5
    longest: float = 60.0
    total: float = 300.0


class _EmbeddingRequest(NamedTuple):
    texts: Sequence[str]
    tokens: int
    dimension: int | None
    shortened: bool
    stopped: Event


class Requests:
    """Sends requests for the vectors of one model. Thread-safe."""

    def __init__(
        self, model: str, endpoint: Endpoint, limits: RateLimits, retry_times: RetryTimes
    ) -> None:
        import openai

        self._model = model
        self._endpoint = endpoint
        self._limits = limits
        self._retry_times = retry_times
        self._client = openai.OpenAI(
            # the client requires a key, even for an endpoint without one
            api_key=endpoint.key.get_secret_value() if endpoint.key else "none",
            base_url=endpoint.url,
            timeout=retry_times.answer,
            max_retries=0,
            http_client=limited_http_client(),
        )
        self._backoff = wait_exponential_jitter(
            multiplier=retry_times.first, max=retry_times.longest, jitter=retry_times.first
        )
        self._jitter = wait_random(0, retry_times.first)
        self._as_numbers = False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(
        self,
        texts: Sequence[str],
        *,
        tokens: int,
        dimension: int | None = None,
        shortened: bool = False,
        fail_fast: bool = False,
        stopped: Event,
        billed: Callable[[int], None] = lambda tokens: None,
    ) -> EmbeddingResponse:
        """Return the vectors of texts of about `tokens` tokens.

        `billed` is called with the tokens of each response, valid or not; with `tokens` where the
        response does not say. `shortened` requests fewer dimensions than the model's full one.
        `fail_fast` allows fewer tries where the texts may cause the error.

        Raises RejectedInput where the provider rejects the texts, ConfigurationError for a rejected
        key or an unknown model, EmbeddingsError for an exhausted quota, and RetriesExhausted where
        no try succeeded in time or `stopped` was set.
        """
        request = _EmbeddingRequest(texts, tokens, dimension, shortened, stopped)
        started = time.monotonic()
        failed: list[TransientError] = []
        held_back = 0.0

        def once() -> EmbeddingResponse:
            nonlocal held_back
            if failed and stopped.is_set():
                # the pause was cut short by a stop: no retry
                raise failed[-1]
            arrived = time.monotonic()
            self._limits.wait(tokens, stopped)
            held_back += time.monotonic() - arrived
            try:
                return self._answer(request)
            except TransientError as error:
                failed.append(error)
                billed(error.billed or 0)
                raise

        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=self._wait,
            stop=lambda state: (
                stopped.is_set()
                or sum(error.billed is not None for error in failed) >= _MAX_INVALID_RESPONSES
                or (
                    fail_fast and sum(error.input_suspected for error in failed) >= _FAIL_FAST_TRIES
                )
                # waiting for our own rate limits does not count
                or time.monotonic() - started - held_back + state.upcoming_sleep
                >= self._retry_times.total
            ),
            sleep=sleep_using_event(stopped),
            reraise=True,
        )
        try:
            answer = retrying(once)
        except TransientError as error:
            raise RetriesExhausted(
                f"{self._endpoint.host} returned no vectors of {self._model!r} in"
                f" {retrying.statistics['attempt_number']} tries and"
                f" {time.monotonic() - started:.0f} s ({error}): run again to continue",
                error,
            ) from None
        billed(tokens if answer.tokens is None else answer.tokens)
        return answer

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = self._backoff(state)
        after = error.after if isinstance(error, TransientError) else None
        # jitter, since several threads may get the same retry-after; the backoff is the minimum,
        # since an overloaded provider may send 0 or a time in the past
        return backoff if after is None else max(backoff, after) + self._jitter(state)

    def _answer(self, request: _EmbeddingRequest) -> EmbeddingResponse:
        """Send the request once and return its response."""
        # other threads may change the attribute meanwhile
        as_numbers = self._as_numbers
        try:
            return parse_response(self._post(request, as_numbers), request.texts, request.dimension)
        except RejectedInput as refusal:
            if as_numbers or not _FORMAT_ERROR.search(refusal.full_message):
                raise
            # a server without base64 gets requests for numbers from now on
            self._as_numbers = True
            return self._answer(request)
        except InvalidResponse as error:
            reason = self._endpoint.redacted(str(error))
            raise TransientError(
                f"the response is invalid: {reason}",
                input_suspected=True,
                billed=request.tokens if error.tokens is None else error.tokens,
            ) from None

    def _post(self, request: _EmbeddingRequest, as_numbers: bool) -> object:
        """Return the JSON of the response."""
        import openai

        ask = partial(
            self._client.embeddings.with_raw_response.create,
            model=self._model,
            input=list(request.texts),
            dimensions=request.dimension
            if request.shortened and request.dimension
            else openai.omit,
            encoding_format="float" if as_numbers else openai.omit,
        )
        try:
            response = call_with_deadline(ask, self._retry_times.answer, request.stopped)
        except openai.APIStatusError as error:
            raise classify_error(error, self._endpoint, self._model) from None
        except (openai.APIConnectionError, IncompleteResponse) as error:
            reason = self._endpoint.redacted(str(error.__cause__ or error)) or str(error)
            raise TransientError(reason, input_suspected=True) from None
        return parse_json(response.http_response.content)


# 2,048 vectors of 4,096 dimensions, written as numbers
_MAX_BYTES = 256 << 20
# a response that is about to come is already billed; with the step below a stop takes two seconds
_GRACE_SECONDS = 1.5
# interval at which a waiting thread checks whether it should stop
_STEP_SECONDS = 0.25

T = TypeVar("T")


class IncompleteResponse(Exception):
    """A response that is too large, too slow, or compressed."""


def call_with_deadline(ask: Callable[[], T], seconds: float, stopped: Event) -> T:
    """Return the result of `ask`, which may take `seconds`, or two seconds after a stop.

    `ask` runs in a thread of its own, which is abandoned at the deadline: an HTTP timeout applies
    to each part of a response, so a slow head or body could take any time. Raises
    IncompleteResponse at the deadline.
    """
    answer: Future[T] = Future()
    Thread(target=_settle, args=(answer, ask), name="asking", daemon=True).start()
    until = time.monotonic() + seconds
    stopping = False
    while (left := until - time.monotonic()) > 0 and not answer.done():
        wait([answer], timeout=min(left, _STEP_SECONDS))
        if not stopping and stopped.is_set():
            stopping = True
            until = min(until, time.monotonic() + _GRACE_SECONDS)
    if not answer.done():
        raise IncompleteResponse(
            "stopped before the response came"
            if stopping
            else f"no complete response in {seconds:g} s"
        )
    return answer.result()


def _settle(answer: Future[T], ask: Callable[[], T]) -> None:
    try:
        answer.set_result(ask())
    # the waiting thread raises the error
    except BaseException as error:
        answer.set_exception(error)


def limited_http_client() -> httpx2.Client:
    """Return OpenAI's HTTP client with a limit on the size of a body and without redirects.

    A redirect would send the texts to another host than the configured one.
    """
    import httpx2
    import openai

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, inner: httpx2.SyncByteStream) -> None:
            self._inner = inner
            self._size = 0

        def __iter__(self) -> Iterator[bytes]:
            for part in self._inner:
                self._size += len(part)
                if self._size > _MAX_BYTES:
                    raise IncompleteResponse(f"the response has more than {_MAX_BYTES:,} bytes")
                yield part

        def close(self) -> None:
            self._inner.close()

    def bound(response: httpx2.Response) -> None:
        packing = response.headers.get("content-encoding", "identity")
        if packing != "identity":
            raise IncompleteResponse(f"the response is compressed ({packing}) against the request")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = Bounded(response.stream)

    return openai.DefaultHttpxClient(
        event_hooks={"response": [bound]},
        # a few compressed bytes could expand to gigabytes
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
    )
