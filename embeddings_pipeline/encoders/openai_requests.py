"""Sends texts to an OpenAI-compatible endpoint, again where that helps."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Event

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_exponential_jitter,
    wait_random,
)

from embeddings_pipeline.encoders.openai_answers import Answer, Unusable, read_answer
from embeddings_pipeline.encoders.openai_endpoint import Endpoint
from embeddings_pipeline.encoders.openai_errors import Exhausted, Passing, Refused, meaning
from embeddings_pipeline.encoders.rate_limits import RateLimits

# a text that every model can take
PROBE = "probe"

# 2,048 vectors of 4,096 dimensions, written as numbers
_MOST_BYTES = 256 << 20
_OF_FORMAT = re.compile(r"encoding_format|base64", re.IGNORECASE)
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
    ) -> Answer:
        """The vectors of texts of about so many tokens; the answer's tokens are those of all
        tries. `shortened` asks for fewer dimensions than the model's own; `brief` gives up soon
        where the texts may be at fault.

        Raises Refused where the provider takes no such texts, ConfigurationError where it does not
        take the key or has no such model, EmbeddingsError where the quota is exhausted, and
        Exhausted where patience is at its end, or `stopped` was set.
        """
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
                return self._answer(texts, dimension, shortened)
            except Passing as error:
                failed.append(error)
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
                sum(each.billed or 0 for each in failed),
            ) from None
        billed = tokens if answer.tokens is None else answer.tokens
        return Answer(answer.vectors, billed + sum(each.billed or 0 for each in failed))

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = self._backoff(state)
        after = error.after if isinstance(error, Passing) else None
        # several threads are told to come back at one and the same time
        # a provider that is sorely pressed may say 0, or a time that is past
        return backoff if after is None else max(backoff, after) + self._jitter(state)

    def _answer(self, texts: Sequence[str], dimension: int | None, shortened: bool) -> Answer:
        """The answer of one try."""
        try:
            body = self._post(texts, dimension if shortened else None)
            return read_answer(body, texts, dimension)
        except Refused as refusal:
            if self._as_numbers or not _OF_FORMAT.search(refusal.in_full):
                raise
            # a server that does not know base64 is asked for numbers from now on
            self._as_numbers = True
            return self._answer(texts, dimension, shortened)
        except Unusable as error:
            reason = self._endpoint.redacted(str(error))
            raise Passing(
                f"the answer cannot be used: {reason}", by_texts=True, billed=error.tokens or 0
            ) from None

    def _post(self, texts: Sequence[str], dimensions: int | None) -> object:
        """The JSON of the answer."""
        import httpx2
        import openai

        until = time.monotonic() + self._patience.answer
        try:
            with self._client.embeddings.with_streaming_response.create(
                model=self._model,
                input=list(texts),
                dimensions=openai.omit if dimensions is None else dimensions,
                encoding_format="float" if self._as_numbers else openai.omit,
            ) as response:
                return json.loads(self._body(response.iter_bytes(), until))
        except openai.APIStatusError as error:
            raise meaning(error, self._endpoint, self._model) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            reason = self._endpoint.redacted(str(error.__cause__ or error)) or str(error)
            raise Passing(reason, by_texts=True) from None
        # JSON that is nested too deep is no ValueError
        except (ValueError, RecursionError) as error:
            raise Unusable(f"it is not JSON: {error}") from None

    def _body(self, parts: Iterable[bytes], until: float) -> bytes:
        """All of an answer, however it comes. The client's own timeout is of each part."""
        body = bytearray()
        for part in parts:
            body += part
            if len(body) > _MOST_BYTES:
                raise Unusable(f"it has more than {_MOST_BYTES:,} bytes")
            if time.monotonic() > until:
                raise Passing(f"no whole answer in {self._patience.answer:g} s", by_texts=True)
        return bytes(body)
