"""Sends texts to an OpenAI-compatible endpoint, again where that helps, and bounds its answers
in time and size."""

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
    Answer,
    Exhausted,
    Passing,
    Refused,
    Unusable,
    json_of,
    meaning,
    read_answer,
)
from embeddings_pipeline.encoders.openai.truncation import cut, cut_as_told, estimate
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    import httpx2


_TRIES_FOR_FINITE = 3


class Fitted(NamedTuple):
    """A text as it is sent; `truncated` where it is only the beginning."""

    text: str
    truncated: bool


def fitted(texts: Sequence[Item[str]], max_tokens: int) -> list[Item[Fitted]]:
    """The texts with their tokens; of one that has too many the beginning."""
    return [
        Item(item.place, Fitted(text, before > max_tokens), tokens)
        for item, before in zip(texts, estimate([item.content for item in texts]), strict=True)
        for text, tokens in [cut(item.content, before, max_tokens)]
    ]


class Session:
    """What all requests of a stream share: what they ask for, and what ended them.

    Once it is `stopping`, or one of them ended it, nothing more is sent and none waits long.
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
        self, texts: Sequence[str], tokens: int, billed: Callable[[int], None], *, brief: bool
    ) -> Answer:
        """See `Requests.send`. Raises EmbeddingsError once it is stopped."""
        self.check()
        return self._requests.send(
            texts,
            tokens=tokens,
            dimension=self.dimension,
            shortened=self._shortened,
            brief=brief,
            stopped=self._stopped,
            billed=billed,
        )

    def probe(self, billed: Callable[[int], None]) -> None:
        """Once, make sure that the provider takes any text. Raises ConfigurationError where it
        refuses that too."""
        with self._probing:
            if self._probed:
                return
            try:
                self.send([PROBE], 1, billed, brief=False)
            except Refused as refusal:
                raise ConfigurationError(f"not even {PROBE!r} can be encoded: {refusal}") from None
            self._probed = True

    def check(self) -> None:
        """Raise EmbeddingsError once it is stopped."""
        if self.stopped:
            raise EmbeddingsError("stopped before all texts were sent; run again to go on")

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return self._stopped.is_set()

    def close(self) -> None:
        """Stop it: whoever waits to try again need not."""
        self._stopped.set()

    def failed(self, error: BaseException) -> BaseException:
        """Stop it for an error. Returns the first one: what others raise after it is that they
        were stopped."""
        with self._lock:
            self._error = self._error or error
        self.close()
        return self._error


def answered(session: Session, batch: Sequence[Item[Fitted]]) -> Iterator[EncodedBatch]:
    """What became of a batch; if an error ended it, what was answered and billed before.

    Raises what `Requests.send` raises but Refused, and ConfigurationError where any text is
    refused; or what another batch raised before.
    """
    call = _Call(session, batch)
    error = None
    try:
        call.run()
    # what is paid for is given out before it
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


class _Call:
    """The texts of a batch and what became of them. What has a vector is never sent again.

    `vectors` have the shape (texts, dimension) and mean nothing at the indexes in `failures`, and
    in `unread`; `truncated` are the indexes of texts that were cut, `tokens` what was billed.
    """

    def __init__(self, session: Session, batch: Sequence[Item[Fitted]]) -> None:
        self._session = session
        self._texts = [item.content.text for item in batch]
        self._lengths = [item.tokens for item in batch]
        self.vectors: Vectors = np.zeros((len(batch), session.dimension), np.float32)
        # OpenAI refuses an empty text, and with it all others of its request
        self.failures = {i: "the text is empty" for i, text in enumerate(self._texts) if not text}
        self.unread = {*range(len(batch))} - {*self.failures}
        self.truncated = {i for i, item in enumerate(batch) if item.content.truncated}
        self.tokens = 0

    def run(self) -> None:
        """Send all texts."""
        if self.unread:
            self._take(sorted(self.unread))

    def _take(
        self, batch: list[int], tries: int = _TRIES_FOR_FINITE, *, brief: bool = False
    ) -> None:
        try:
            answer = self._send(
                [self._texts[i] for i in batch], sum(self._lengths[i] for i in batch), brief=brief
            )
        except Refused as refusal:
            self._divide(batch, refusal, brief=brief)
            return
        except Exhausted as error:
            self._isolate(batch, error)
            return
        finite = [bool(np.isfinite(vector).all()) for vector in answer.vectors]
        self.vectors[batch] = answer.vectors
        left = [i for i, is_finite in zip(batch, finite, strict=True) if not is_finite]
        self.unread -= {*batch} - {*left}
        if left and tries > 1:
            self._take(left, tries - 1, brief=brief)
        elif left:
            self._fail(left, f"the provider's vector is not finite, {_TRIES_FOR_FINITE} times")

    def _send(self, texts: Sequence[str], tokens: int, *, brief: bool = False) -> Answer:
        return self._session.send(texts, tokens, self._bill, brief=brief)

    def _bill(self, tokens: int) -> None:
        self.tokens += tokens

    def _isolate(self, batch: list[int], error: Exhausted) -> None:
        """Find the texts that the provider stumbles over though it takes others.

        Each time it is asked anew whether it does: it may have gone away in between.
        """
        if self._session.stopped or not error.last.by_texts:
            raise error
        try:
            self._send([PROBE], 1, brief=True)
        except (Exhausted, Refused):
            raise error from None
        if len(batch) == 1:
            self._fail(batch, f"the provider takes other texts, but not this one ({error.last})")
            return
        half = len(batch) // 2
        self._take(batch[:half], brief=True)
        self._take(batch[half:], brief=True)

    def _divide(self, batch: list[int], refusal: Refused, *, brief: bool) -> None:
        """Find the texts that are refused, and cut those that are only too long."""
        self._session.probe(self._bill)
        if len(batch) > 1:
            half = len(batch) // 2
            self._take(batch[:half], brief=brief)
            self._take(batch[half:], brief=brief)
            return
        (index,) = batch
        shorter = cut_as_told(self._texts[index], refusal.in_full)
        if shorter is None:
            self._fail(batch, str(refusal))
            return
        self._texts[index] = shorter
        self._lengths[index] = estimate([shorter])[0]
        self.truncated.add(index)
        self._take(batch, brief=brief)

    def _fail(self, batch: Sequence[int], reason: str) -> None:
        self.failures |= dict.fromkeys(batch, reason)
        self.unread -= {*batch}


# a text that every model can take
PROBE = "probe"

_OF_FORMAT = re.compile(r"encoding.?format|base64|\bfloats?\b", re.IGNORECASE)
# each unusable answer is billed like a good one
_UNUSABLE_ANSWERS = 4
# of texts that may be what the provider stumbles over
_BRIEF_TRIES = 3


@dataclass(frozen=True)
class Patience:
    """Seconds: that one answer may take, of the first and the longest pause, and in all."""

    answer: float = 60.0
    first: float = 0.5
    longest: float = 60.0
    total: float = 300.0


class _Asked(NamedTuple):
    texts: Sequence[str]
    tokens: int
    dimension: int | None
    shortened: bool
    stopped: Event


class Requests:
    """The requests for the vectors of one model. Any number of threads may send."""

    def __init__(
        self, model: str, endpoint: Endpoint, limits: RateLimits, patience: Patience
    ) -> None:
        import openai

        self._model = model
        self._endpoint = endpoint
        self._limits = limits
        self._patience = patience
        self._client = openai.OpenAI(
            # the client insists on a key, even where the endpoint needs none
            api_key=endpoint.key.get_secret_value() if endpoint.key else "none",
            base_url=endpoint.url,
            timeout=patience.answer,
            max_retries=0,
            http_client=bounded_client(),
        )
        self._backoff = wait_exponential_jitter(
            multiplier=patience.first, max=patience.longest, jitter=patience.first
        )
        self._jitter = wait_random(0, patience.first)
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
        brief: bool = False,
        stopped: Event,
        billed: Callable[[int], None] = lambda tokens: None,
    ) -> Answer:
        """The vectors of texts of about so many tokens. Whatever becomes of it, `billed` is told
        the tokens of each answer: so many, where it does not say. `shortened` asks for fewer
        dimensions than the model's own; `brief` gives up soon where the texts may be at fault.

        Raises Refused where the provider takes no such texts, ConfigurationError where it does not
        take the key or has no such model, EmbeddingsError where the quota is exhausted, and
        Exhausted where patience is at its end, or `stopped` was set.
        """
        asked = _Asked(texts, tokens, dimension, shortened, stopped)
        started = time.monotonic()
        failed: list[Passing] = []
        held_back = 0.0

        def once() -> Answer:
            nonlocal held_back
            if failed and stopped.is_set():
                # a pause that was cut short is no reason to ask again
                raise failed[-1]
            arrived = time.monotonic()
            self._limits.wait(tokens, stopped)
            held_back += time.monotonic() - arrived
            try:
                return self._answer(asked)
            except Passing as error:
                failed.append(error)
                billed(error.billed or 0)
                raise

        retrying = Retrying(
            retry=retry_if_exception_type(Passing),
            wait=self._wait,
            stop=lambda state: (
                stopped.is_set()
                or sum(error.billed is not None for error in failed) >= _UNUSABLE_ANSWERS
                or (brief and sum(error.by_texts for error in failed) >= _BRIEF_TRIES)
                # what our own limits take is no fault of the provider's
                or time.monotonic() - started - held_back + state.upcoming_sleep
                >= self._patience.total
            ),
            sleep=sleep_using_event(stopped),
            reraise=True,
        )
        try:
            answer = retrying(once)
        except Passing as error:
            raise Exhausted(
                f"{self._endpoint.host} gave no vectors of {self._model!r} in"
                f" {retrying.statistics['attempt_number']} tries and"
                f" {time.monotonic() - started:.0f} s ({error}); run again to go on",
                error,
            ) from None
        billed(tokens if answer.tokens is None else answer.tokens)
        return answer

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = self._backoff(state)
        after = error.after if isinstance(error, Passing) else None
        # several threads are told to come back at one and the same time
        # a provider that is sorely pressed may say 0, or a time that is past
        return backoff if after is None else max(backoff, after) + self._jitter(state)

    def _answer(self, asked: _Asked) -> Answer:
        """The answer of one try."""
        # other threads may find out meanwhile
        as_numbers = self._as_numbers
        try:
            return read_answer(self._post(asked, as_numbers), asked.texts, asked.dimension)
        except Refused as refusal:
            if as_numbers or not _OF_FORMAT.search(refusal.in_full):
                raise
            # a server that does not know base64 is asked for numbers from now on
            self._as_numbers = True
            return self._answer(asked)
        except Unusable as error:
            reason = self._endpoint.redacted(str(error))
            raise Passing(
                f"the answer cannot be used: {reason}",
                by_texts=True,
                billed=asked.tokens if error.tokens is None else error.tokens,
            ) from None

    def _post(self, asked: _Asked, as_numbers: bool) -> object:
        """The JSON of the answer."""
        import openai

        ask = partial(
            self._client.embeddings.with_raw_response.create,
            model=self._model,
            input=list(asked.texts),
            dimensions=asked.dimension if asked.shortened and asked.dimension else openai.omit,
            encoding_format="float" if as_numbers else openai.omit,
        )
        try:
            response = awaited(ask, self._patience.answer, asked.stopped)
        except openai.APIStatusError as error:
            raise meaning(error, self._endpoint, self._model) from None
        except (openai.APIConnectionError, Unended) as error:
            reason = self._endpoint.redacted(str(error.__cause__ or error)) or str(error)
            raise Passing(reason, by_texts=True) from None
        return json_of(response.http_response.content)


# 2,048 vectors of 4,096 dimensions, written as numbers
_MOST_BYTES = 256 << 20
# what is about to be answered is paid for; with the step below it makes a stop of two seconds
_GRACE_SECONDS = 1.5
# how often whoever waits looks whether it should stop
_STEP_SECONDS = 0.25

T = TypeVar("T")


class Unended(Exception):
    """An answer that is too long, too long in coming, or packed."""


def awaited(ask: Callable[[], T], seconds: float, stopped: Event) -> T:
    """What `ask` gives within so many seconds in all, or within two once it is `stopped`.

    It runs in a thread of its own, which is left to itself where it takes longer: a timeout of HTTP
    is one of each part, and an answer may drip for ever, head or body. Raises Unended then.
    """
    answer: Future[T] = Future()
    Thread(target=_settle, args=(answer, ask), name="asking", daemon=True).start()
    until = time.monotonic() + seconds
    told = False
    while (left := until - time.monotonic()) > 0 and not answer.done():
        wait([answer], timeout=min(left, _STEP_SECONDS))
        if not told and stopped.is_set():
            told = True
            until = min(until, time.monotonic() + _GRACE_SECONDS)
    if not answer.done():
        raise Unended("stopped before it answered" if told else f"no whole answer in {seconds:g} s")
    return answer.result()


def _settle(answer: Future[T], ask: Callable[[], T]) -> None:
    try:
        answer.set_result(ask())
    # whatever it is, it is for who waits
    except BaseException as error:
        answer.set_exception(error)


def bounded_client() -> httpx2.Client:
    """The vendor's client of HTTP, which reads no body without end and follows no redirect: the
    texts are for the provider that was configured."""
    import httpx2
    import openai

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, inner: httpx2.SyncByteStream) -> None:
            self._inner = inner
            self._size = 0

        def __iter__(self) -> Iterator[bytes]:
            for part in self._inner:
                self._size += len(part)
                if self._size > _MOST_BYTES:
                    raise Unended(f"the answer has more than {_MOST_BYTES:,} bytes")
                yield part

        def close(self) -> None:
            self._inner.close()

    def bound(response: httpx2.Response) -> None:
        packing = response.headers.get("content-encoding", "identity")
        if packing != "identity":
            raise Unended(f"the answer is packed ({packing}), which was not asked for")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = Bounded(response.stream)

    return openai.DefaultHttpxClient(
        event_hooks={"response": [bound]},
        # packed, a few bytes could be gigabytes
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
    )
