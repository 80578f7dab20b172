"""Sends texts to an OpenAI-compatible endpoint, again where that helps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_before_delay,
    wait_exponential_jitter,
    wait_random,
)

from embeddings_pipeline.encoders.openai_answers import Answer, Unusable, read_answer
from embeddings_pipeline.encoders.rate_limits import RateLimits
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    import openai
    from httpx2 import Headers

# a text that every model can take
PROBE = "probe"

# each unusable answer is billed like a good one
_UNUSABLE_ANSWERS = 4
_EXHAUSTED = {"insufficient_quota", "billing_hard_limit_reached"}
# timeout, conflict, too early, too many
_PASSING = {408, 409, 425, 429}
_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Endpoint:
    """Where the provider is, and the key to it; some need none."""

    url: str
    key: SecretStr | None

    @property
    def host(self) -> str:
        """The host, with its port where that is not the usual one."""
        return urlsplit(self.url).netloc

    def redacted(self, text: str) -> str:
        """A text of the provider's without the key, and not too long."""
        secret = self.key.get_secret_value() if self.key else ""
        return (text.replace(secret, "…") if secret else text)[:_LONGEST_MESSAGE]


@dataclass(frozen=True)
class Patience:
    """Seconds: that one answer may take, of the first and the longest pause, and in all."""

    answer: float = 60.0
    first: float = 0.5
    longest: float = 60.0
    total: float = 300.0


class Refused(Exception):
    """The provider does not take these texts, and will not another time."""


class _Passing(Exception):
    """What may go by itself, at the soonest in `after` seconds."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


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
        self._is_late = stop_before_delay(patience.total)

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
        stopped: Event,
    ) -> Answer:
        """The vectors of texts of about so many tokens; the answer's tokens are those of all
        tries. `shortened` asks for fewer dimensions than the model's own.

        Raises Refused where the provider takes no such texts, ConfigurationError where it does not
        take the key or has no such model, and EmbeddingsError where the quota is exhausted,
        patience is at its end, or `stopped` was set.
        """
        started = time.monotonic()
        wasted: list[int] = []

        def once() -> Answer:
            self._limits.wait(tokens, stopped)
            try:
                body = self._post(texts, dimension if shortened else None)
                return read_answer(body, len(texts), dimension)
            except Unusable as error:
                wasted.append(error.tokens or 0)
                raise _Passing(f"the answer cannot be used: {error}") from None

        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            wait=self._wait,
            stop=lambda state: (
                len(wasted) >= _UNUSABLE_ANSWERS or stopped.is_set() or self._is_late(state)
            ),
            sleep=sleep_using_event(stopped),
            reraise=True,
        )
        try:
            answer = retrying(once)
        except _Passing as error:
            raise EmbeddingsError(
                f"{self._endpoint.host} gave no vectors of {self._model!r} in"
                f" {retrying.statistics['attempt_number']} tries and"
                f" {time.monotonic() - started:.0f} s ({error}); run again to go on"
            ) from None
        billed = tokens if answer.tokens is None else answer.tokens
        return Answer(answer.vectors, billed + sum(wasted))

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = self._backoff(state)
        after = error.after if isinstance(error, _Passing) else None
        # several threads are told to come back at one and the same time
        return backoff if after is None else max(0.0, after) + self._jitter(state)

    def _post(self, texts: Sequence[str], dimensions: int | None) -> object:
        """The JSON of the answer."""
        import openai

        try:
            response = self._client.embeddings.with_raw_response.create(
                model=self._model,
                input=list(texts),
                dimensions=openai.omit if dimensions is None else dimensions,
            )
        except openai.APIStatusError as error:
            raise self._meaning(error) from None
        except openai.APIConnectionError as error:
            reason = self._endpoint.redacted(str(error.__cause__ or error)) or str(error)
            raise _Passing(reason) from None
        try:
            return response.http_response.json()
        except ValueError as error:
            raise Unusable(f"it is not JSON: {error}") from None

    def _meaning(self, error: openai.APIStatusError) -> Exception:
        status, host = error.status_code, self._endpoint.host
        said = error.body.get("message") if isinstance(error.body, dict) else None
        said = self._endpoint.redacted(str(said or error.message))
        if {error.code, error.type} & _EXHAUSTED or status == 402:
            return EmbeddingsError(f"the quota at {host} is exhausted ({status}: {said})")
        if status in (401, 403):
            return ConfigurationError(
                f"{host} does not accept the key ({status}: {said}): set OPENAI_API_KEY to one that"
                f" may use {self._model!r}"
            )
        if status == 404:
            return ConfigurationError(
                f"{host} has no model {self._model!r} ({status}: {said}): check the name, and"
                " OPENAI_BASE_URL"
            )
        if status in _PASSING or status >= 500:
            return _Passing(f"{status}: {said}", _retry_after(error.response.headers))
        return Refused(f"{host} refuses it ({status}: {said})")


def _retry_after(headers: Headers) -> float | None:
    """Seconds, from milliseconds, from seconds or from a date; None where none is given."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    except (KeyError, ValueError):
        return None
