"""Reads images over the network, only from hosts and buckets that EMBEDDING_IMAGE_HOSTS names.

A host is named as in the URI, with its port unless that is the scheme's default; a bucket is named
as s3://bucket. The list also applies to redirects. HTTP does not use fsspec, which follows
redirects by itself.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Awaitable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.errors import ConfigurationError, RowError

# the longest silence of a host, and the longest time for one image, redirects included
_SILENCE_SECONDS = 10.0
_SECONDS = 60.0
_REDIRECTS = 5

T = TypeVar("T")


def _call(work: Awaitable[T], loop: AbstractEventLoop | None = None) -> T:
    try:
        return deadline.call(work, _SECONDS, loop)
    except TimeoutError:
        raise RowError(f"the response was incomplete after {_SECONDS:g} seconds") from None


class HttpImages:
    """Reads images by HTTP with one connection pool. Thread-safe."""

    def __init__(self, *, hosts: frozenset[str], max_bytes: int) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._client = httpx.AsyncClient(
            timeout=_SILENCE_SECONDS,
            # a few compressed bytes could expand to gigabytes
            headers={"Accept-Encoding": "identity"},
        )

    def read(self, uri: str) -> bytes:
        """Return the body of an http or https URI, at most one byte more than `max_bytes`.

        Raises RowError for a host that is not named, and for any failure.
        """
        return _call(self._read(_url(uri)))

    async def _read(self, url: httpx.URL) -> bytes:
        for _ in range(_REDIRECTS + 1):
            self._require_named(url)
            try:
                async with self._client.stream("GET", url) as response:
                    if not response.has_redirect_location:
                        return await self._body(response)
                    url = url.join(_url(response.headers["Location"]))
            except httpx.TimeoutException:
                raise RowError(
                    f"{url.host}: timed out after {_SILENCE_SECONDS:g} seconds without a byte"
                ) from None
            # InvalidURL, which is no HTTPError, comes from a redirect's location
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise RowError(f"{url.host}: {str(error) or type(error).__name__}") from None
        raise RowError(f"{url.host} redirects more than {_REDIRECTS} times")

    def close(self) -> None:
        """Close the connections."""
        # a host that does not take part in the closing is no error of a row
        with suppress(RowError):
            _call(self._client.aclose())

    def _require_named(self, url: httpx.URL) -> None:
        if url.userinfo:
            raise RowError("the URI contains a user or a password: remove it")
        name = url.netloc.decode().lower()
        if url.scheme not in ("http", "https") or name not in self._hosts:
            raise RowError(
                f"{url.scheme}://{name} is not in EMBEDDING_IMAGE_HOSTS"
                f" ({', '.join(sorted(self._hosts)) or 'none'})"
            )

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise RowError(f"{response.url.host} answers {response.status_code}")
        body = bytearray()
        async for block in response.aiter_raw():
            body += block
            if len(body) > self._max_bytes:
                break
        return bytes(body)


def read_s3(uri: str, *, hosts: frozenset[str], max_bytes: int) -> bytes:
    """Return an object of a bucket, at most one byte more than `max_bytes`.

    Raises RowError for a bucket that is not named, and for any failure.
    """
    parts = urlsplit(uri)
    if f"s3://{parts.netloc}".lower() not in hosts:
        raise RowError(
            f"s3://{parts.netloc} is not in EMBEDDING_IMAGE_HOSTS"
            f" ({', '.join(sorted(hosts)) or 'none'})"
        )
    try:
        s3 = _s3()
        reading = s3._cat_file(f"{parts.netloc}{parts.path}", start=0, end=max_bytes + 1)
        data: bytes = _call(reading, loop=s3.loop)
    except (ConfigurationError, RowError):
        raise
    # botocore, aiohttp and s3fs raise their own classes
    except Exception as error:
        raise RowError(str(error) or type(error).__name__) from None
    return data


@lru_cache
def _s3() -> Any:
    import fsspec

    seconds = {"connect_timeout": _SILENCE_SECONDS, "read_timeout": _SILENCE_SECONDS}
    try:
        return fsspec.filesystem("s3", config_kwargs={**seconds, "retries": {"max_attempts": 2}})
    except ImportError:
        raise ConfigurationError(
            "images in s3 need s3fs: pip install embeddings-pipeline[s3]"
        ) from None


def _url(uri: str) -> httpx.URL:
    try:
        return httpx.URL(uri)
    except httpx.InvalidURL as error:
        raise RowError(f"not a URL: {error}") from None
