"""Addresses, keys and formats of providers other than OpenAI."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import SecretStr

from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder, RequestOptions
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.models import remote_model
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from tests.support.asking import QUICK, SMALL, assert_right, encoder
from tests.support.provider import KEY, Provider


def at(provider: Provider, path: str, key: str = KEY) -> OpenAIEncoder:
    remote = remote_model(SMALL)
    assert remote is not None
    endpoint = Endpoint(f"http://127.0.0.1:{provider.server_port}{path}", SecretStr(key))
    made = OpenAIEncoder(SMALL, remote, endpoint, options=RequestOptions(timeouts=QUICK))
    provider.clients.callback(made.close)
    return made


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments/mine/embeddings?api-version=2024-02-01",
        "/openai/deployments/mine?api-version=2024-02-01",
        "/openai/deployments/mine/?api-version=2024-02-01",
    ],
)
def test_a_deployment_of_azure_is_asked_at_its_address_with_its_key(
    provider: Provider, path: str
) -> None:
    made = at(provider, path)
    assert_right(made.encode_documents(["pump"]), ["pump"])
    assert provider.paths == ["/openai/deployments/mine/embeddings?api-version=2024-02-01"]
    headers = {name.lower(): value for name, value in provider.headers[0].items()}
    assert headers["api-key"] == KEY
    assert "authorization" not in headers
    assert made.identity.revision == f"{SMALL}@127.0.0.1:{provider.server_port}/mine"


def test_a_wrong_key_of_azure_is_named_and_not_told(provider: Provider) -> None:
    with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY") as raised:
        at(provider, "/openai/deployments/mine?api-version=1", "sk-wrong").encode_documents(["a"])
    assert "sk-wrong" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "azure"),
    [
        ("https://x.openai.azure.com/openai/deployments/D/embeddings?api-version=2024-02-01", True),
        ("https://x.openai.azure.com/openai/v1", True),
        ("https://x.cognitiveservices.azure.com/openai/deployments/D?api-version=1", True),
        ("https://gateway.example.com/team/openai/deployments/D?api-version=1", True),
        ("https://api.openai.com/v1", False),
        ("http://localhost:8000/v1", False),
        ("https://azure.com.example.com/v1", False),
    ],
)
def test_azure_is_known_by_its_address(url: str, azure: bool) -> None:
    assert Endpoint(url, None).is_azure == azure
    assert Settings(_env_file=None, openai_base_url=url).openai_base_url == url


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/embeddings"])
def test_an_address_may_name_the_embeddings(provider: Provider, path: str) -> None:
    assert_right(at(provider, path).encode_documents(["pump"]), ["pump"])
    assert provider.paths == ["/v1/embeddings"]
    assert provider.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("format", ["base64", "float", "none"])
def test_a_declared_format_is_the_only_one_asked_for(
    provider: Provider, format: Literal["base64", "float", "none"]
) -> None:
    def refuse(texts: list[str]) -> Any:
        return (400, {"message": "encoding_format: only another one is supported"}, {})

    asks = encoder(provider, format=format)
    assert_right(asks.encode_documents(["pump"]), ["pump"])
    provider.chance = refuse
    with pytest.raises(ConfigurationError, match="only another one is supported"):
        asks.encode_documents(["pump"])
    wanted = None if format == "none" else format
    assert {body.get("encoding_format") for body in provider.asked} == {wanted}
