"""What an error of an OpenAI-compatible endpoint means for those who asked."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from embeddings_pipeline.encoders.openai_endpoint import Endpoint
from embeddings_pipeline.encoders.openai_lengths import is_fault_of_length
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

if TYPE_CHECKING:
    from httpx2 import Headers
    from openai import APIStatusError

_EXHAUSTED = {"insufficient_quota", "billing_hard_limit_reached"}
# timeout, conflict, too early, too many
_PASSING = {408, 409, 425, 429}


class Refused(Exception):
    """The provider does not take these texts, and will not another time.

    `in_full` is all that it says of that, for reading, not for telling: it may hold the key.
    """

    def __init__(self, reason: str, in_full: str) -> None:
        super().__init__(reason)
        self.in_full = in_full


class Passing(Exception):
    """What may go by itself, at the soonest in `after` seconds.

    `by_texts` where the texts could be what the provider stumbles over; `billed` are the tokens of
    an answer that came but cannot be used.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        *,
        by_texts: bool = False,
        billed: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.by_texts = by_texts
        self.billed = billed


class Exhausted(EmbeddingsError):
    """What did not go by, in all the tries there were; `last` is what happened in the last of
    them."""

    def __init__(self, said: str, last: Passing) -> None:
        super().__init__(said)
        self.last = last


def meaning(error: APIStatusError, endpoint: Endpoint, model: str) -> Exception:
    """Passing, Refused, or an error that ends the run; without the key, whatever was answered."""
    status, host = error.status_code, endpoint.host
    body = error.body
    # not every server puts its words where OpenAI does
    in_full = str(
        (body.get("message") if isinstance(body, dict) else None) or body or error.message
    )
    said = endpoint.redacted(in_full)
    if {str(error.code), str(error.type)} & _EXHAUSTED or status == 402:
        return EmbeddingsError(f"the quota at {host} is exhausted ({status}: {said})")
    if status in (401, 403):
        return ConfigurationError(
            f"{host} does not accept the key ({status}: {said}): set OPENAI_API_KEY to one that"
            f" may use {model!r}"
        )
    if status == 404:
        return ConfigurationError(
            f"{host} has no model {model!r} ({status}: {said}): check the name, and OPENAI_BASE_URL"
        )
    if 300 <= status < 400:
        to = endpoint.redacted(error.response.headers.get("location", "another address"))
        return ConfigurationError(
            f"{host} sends on to {to} ({status}), where texts are not sent: set OPENAI_BASE_URL to"
            " where the provider is"
        )
    if status == 500 and is_fault_of_length(in_full):
        return Refused(f"{host} refuses it ({status}: {said})", in_full)
    if status in _PASSING or status >= 500:
        after = _retry_after(error.response.headers)
        return Passing(f"{status}: {said}", after, by_texts=status >= 500)
    return Refused(f"{host} refuses it ({status}: {said})", in_full)


def _retry_after(headers: Headers) -> float | None:
    """Seconds, from milliseconds, from seconds or from a date; None where none is given."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            after = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(after):
            return after
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    # a date may be beyond what this machine can count
    except (KeyError, ValueError, OverflowError, OSError):
        return None
