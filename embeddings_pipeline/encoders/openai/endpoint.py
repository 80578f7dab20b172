"""Where a provider is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

_DEFAULT_URL = "https://api.openai.com/v1"
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

    @property
    def is_default(self) -> bool:
        """Whether it is OpenAI's own."""
        return self.url.rstrip("/") == _DEFAULT_URL

    def redacted(self, text: str) -> str:
        """A text of the provider's without the key, however it is quoted, and not too long."""
        secret = self.key.get_secret_value() if self.key else ""
        if secret:
            # a key may have quotes or a backslash in it
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                text = text.replace(form, "…")
        return text[:_LONGEST_MESSAGE]


def endpoint_of(settings: Settings) -> Endpoint:
    """The configured endpoint. Raises ConfigurationError where OpenAI's own lacks its key."""
    endpoint = Endpoint(settings.openai_base_url or _DEFAULT_URL, settings.openai_api_key)
    if endpoint.is_default and endpoint.key is None:
        raise ConfigurationError(
            "OPENAI_API_KEY is not set: set it, or OPENAI_BASE_URL for an endpoint without a key"
        )
    return endpoint
