"""API keys: each has a scope and a rate limit, and is stored as a hash."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated, Literal, cast
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pyrate_limiter import Duration, InMemoryBucket, Rate, RateItem
from pyrate_limiter.abstracts.algorithm import Decision
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

_ENTRY = re.compile(r"(?P<name>[\w.-]{1,64}):(?P<scope>read|write):(?P<hash>[0-9a-f]{64})")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer <key>`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)


@dataclass(frozen=True)
class Key:
    """A key of SEARCH_API_KEYS. Scope `write` includes `read`. `digest` is its sha256. `requests`
    and `texts` count those of the last minute; texts are counted where their number is limited."""

    name: str
    scope: Literal["read", "write"]
    digest: bytes
    requests: InMemoryBucket
    texts: InMemoryBucket | None


class Keys:
    """The configured keys. Without any, all processes on this machine may send requests."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError for an invalid entry of SEARCH_API_KEYS."""
        given = settings.search_api_keys
        entries = given.get_secret_value().split(",") if given else []
        self._requests = settings.search_requests_per_minute
        self._texts = settings.search_texts_per_minute
        self._known = [self._parsed(number, entry) for number, entry in enumerate(entries, 1)]
        names = [key.name for key in self._known]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"SEARCH_API_KEYS: two keys have the same name ({', '.join(names)}): give each a"
                " name of its own"
            )

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, key: str) -> Key | None:
        """Return the configured key, or None. A wrong key takes as long as a right one."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known
        return found

    def _parsed(self, number: int, entry: str) -> Key:
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            # not shown: the entry may be a plain-text key
            raise ConfigurationError(
                f"SEARCH_API_KEYS: entry {number} is not name:read:HASH or name:write:HASH, where"
                " HASH is the sha256 of the key in lower-case hex (printf %s KEY | sha256sum)"
            )
        scope: Literal["read", "write"] = "write" if match["scope"] == "write" else "read"
        digest = bytes.fromhex(match["hash"])
        texts = _bucket(self._texts) if self._texts else None
        return Key(match["name"], scope, digest, _bucket(self._requests), texts)


async def reader(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> None:
    """Require a key that may read. Raises HTTPException 401, 403 or 429."""
    _admit(request, bearer, header, ("read", "write"))


async def writer(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> None:
    """Require a key that may write. Raises HTTPException 401, 403 or 429."""
    _admit(request, bearer, header, ("write",))


def count_searches(request: Request, searches: int) -> None:
    """Count the searches of a request beyond its first as requests of their own. Raises
    HTTPException 429 where its key may not send as many now, and 422 where it never may."""
    key: Key | None = getattr(request.state, "key", None)
    if key and searches > 1:
        _require_possible(key.requests, f"{searches} searches", searches)
        _count(key, key.requests, searches - 1, "SEARCH_REQUESTS_PER_MINUTE")


def is_cross_site(headers: Headers, allowed: Sequence[str]) -> bool:
    """Whether a page of another site sent the request; `allowed` are the origins that may."""
    origin = headers.get("Origin")
    if origin in allowed:
        return False
    # a page cannot set this header
    if fetched := headers.get("Sec-Fetch-Site"):
        return fetched not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc != headers.get("Host")


def count_texts(request: Request, texts: int) -> None:
    """Count the texts of a request to encode. Raises HTTPException 429 where its key may not send
    as many now, and 422 where it never may."""
    key: Key | None = getattr(request.state, "key", None)
    if key and key.texts:
        _require_possible(key.texts, f"{texts} texts", texts)
        _count(key, key.texts, texts, "SEARCH_TEXTS_PER_MINUTE")


@lru_cache
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at this address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _admit(
    request: Request,
    bearer: HTTPAuthorizationCredentials | None,
    header: str | None,
    scopes: Sequence[str],
) -> None:
    keys: Keys = request.app.state.keys
    if not keys:
        # another host name means DNS rebinding or a proxy, through which others could connect
        if not is_loopback(request.url.hostname or ""):
            raise HTTPException(
                403, "without SEARCH_API_KEYS only this machine may call the service, as localhost"
            )
        return
    given = bearer.credentials if bearer else header
    if given is None:
        raise HTTPException(401, "a key is required: Authorization: Bearer <key>", _CHALLENGE)
    key = keys.find(given)
    if key is None:
        raise HTTPException(401, "the key is unknown", _CHALLENGE)
    if key.scope not in scopes:
        raise HTTPException(403, f"key {key.name!r} may read only")
    _count(key, key.requests, 1, "SEARCH_REQUESTS_PER_MINUTE")
    request.state.key = key


def _bucket(per_minute: int) -> InMemoryBucket:
    return InMemoryBucket([Rate(per_minute, Duration.MINUTE)])


def _require_possible(bucket: InMemoryBucket, what: str, count: int) -> None:
    most = bucket.rates[0].limit
    if count > most:
        raise HTTPException(422, f"{what} exceed the limit of {most} a minute: send fewer")


def _count(key: Key, bucket: InMemoryBucket, weight: int, limit: str) -> None:
    now = time.monotonic_ns() // 1_000_000
    bucket.leak(now)
    # an in-memory bucket returns the decision itself, not an awaitable
    decision = cast(Decision, bucket.put_decision(RateItem(key.name, now, weight)))
    if not decision.allowed:
        wait = -(-(decision.retry_after_ms or 1_000) // 1_000)
        raise HTTPException(
            429,
            f"key {key.name!r} exceeds {limit}",
            {"Retry-After": str(max(1, wait))},
        )
