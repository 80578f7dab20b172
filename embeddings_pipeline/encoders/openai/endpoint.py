"""The address and the key of a provider."""

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
    """The base URL of a provider and its key; some providers need no key."""

    url: str
    key: SecretStr | None

    @property
    def host(self) -> str:
        """The host of the URL, with the port where the URL has one."""
        return urlsplit(self.url).netloc

    @property
    def is_default(self) -> bool:
        """Whether the endpoint is OpenAI's own."""
        return self.url.rstrip("/") == _DEFAULT_URL

    def redacted(self, text: str) -> str:
        """Return a provider's text without the key in any quoting, cut to 300 characters."""
        secret = self.key.get_secret_value() if self.key else ""
        if secret:
            # a key with quotes or a backslash may appear escaped
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                text = text.replace(form, "…")
        return text[:_LONGEST_MESSAGE]


def endpoint_of(settings: Settings) -> Endpoint:
    """Return the configured endpoint. Raises ConfigurationError for OpenAI without a key."""
    endpoint = Endpoint(settings.openai_base_url or _DEFAULT_URL, settings.openai_api_key)
    if endpoint.is_default and endpoint.key is None:
        raise ConfigurationError(
            "OPENAI_API_KEY is not set: set it, or OPENAI_BASE_URL for an endpoint without a key"
        )
    return endpoint
