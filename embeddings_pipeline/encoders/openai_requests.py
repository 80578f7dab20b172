"""Sends texts to an OpenAI-compatible endpoint, again where that helps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_exponential_jitter,
    wait_random,
)

from embeddings_pipeline.encoders.bounded_answers import Unended, awaited, bounded_client
from embeddings_pipeline.encoders.openai_answers import Answer, Unusable, json_of, read_answer
from embeddings_pipeline.encoders.openai_endpoint import Endpoint
from embeddings_pipeline.encoders.openai_errors import Exhausted, Passing, Refused, meaning
from embeddings_pipeline.encoders.rate_limits import RateLimits

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
