"""Connections to Redis that nobody has to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from redis import Redis

_CONNECT_SECONDS = 0.3
# a search waits for no more than this, once in a while
_ANSWER_SECONDS = 0.5


def connect(url: SecretStr) -> Redis:
    """A client with pooled connections, made when they are needed.

    Raises ConfigurationError for what is no URL, and where the package redis is missing.
    """
    try:
        from redis import Redis
    except ImportError:
        raise ConfigurationError(
            "EMBEDDING_REDIS_URL is set, but the package redis is not installed: pip install"
            " 'embeddings-pipeline[redis]'"
        ) from None
    try:
        return Redis.from_url(
            url.get_secret_value(),
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
        )
    except ValueError:
        # the client's message may quote the URL, and with it the password
        raise ConfigurationError(
            "EMBEDDING_REDIS_URL is not a URL like redis://user:password@host:6379/0, rediss://…"
            " or unix://path"
        ) from None
