"""The address and the key of a provider."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

_DEFAULT_URL = "https://api.openai.com/v1"
_LONGEST_MESSAGE = 300
_AZURE_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)")


@dataclass(frozen=True)
class Endpoint:
    """The URL of a provider and its key; some providers need no key.

    The URL is the base to which `/embeddings` is added, or the whole address, with a query where
    one belongs to each request, as Azure's `?api-version=…`.
    """

    url: str
    key: SecretStr | None

    @property
    def base_url(self) -> str:
        """The URL to which `/embeddings` is added."""
        bare = urlsplit(self.url)._replace(query="").geturl()
        return bare.rstrip("/").removesuffix("/embeddings")

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of each request."""
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def is_azure(self) -> bool:
        """Whether the key goes in the header `api-key`, as for Azure OpenAI and gateways before it
        (learn.microsoft.com/azure/ai-services/openai/reference)."""
        parts = urlsplit(self.url)
        return bool(_AZURE_DEPLOYMENT.search(parts.path)) or (
            (parts.hostname or "").endswith(".azure.com")
        )

    @property
    def host(self) -> str:
        """The host of the URL, with the port where the URL has one."""
        return urlsplit(self.url).netloc

    @property
    def name(self) -> str:
        """The host, and the deployment of Azure, which decides the model."""
        deployment = _AZURE_DEPLOYMENT.search(urlsplit(self.url).path)
        return f"{self.host}/{deployment[1]}" if deployment else self.host

    @property
    def is_default(self) -> bool:
        """Whether the endpoint is OpenAI's own."""
        return self.base_url == _DEFAULT_URL

    def redacted(self, text: str) -> str:
        """Return a provider's text in one line, without HTML tags and without the key in any
        quoting, cut to 300 characters."""
        secret = self.key.get_secret_value() if self.key else ""
        if secret:
            # a key with quotes or a backslash may appear escaped
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                text = text.replace(form, "…")
        if text.lstrip().startswith("<"):
            text = re.sub(r"<[^>]*>", " ", text)
        return " ".join(text.split())[:_LONGEST_MESSAGE]


def endpoint_of(settings: Settings) -> Endpoint:
    """Return the configured endpoint. Raises ConfigurationError for OpenAI without a key."""
    endpoint = Endpoint(settings.openai_base_url or _DEFAULT_URL, settings.openai_api_key)
    if endpoint.is_default and endpoint.key is None:
        raise ConfigurationError(
            "OPENAI_API_KEY is not set: set it, or OPENAI_BASE_URL for an endpoint without a key"
        )
    return endpoint
