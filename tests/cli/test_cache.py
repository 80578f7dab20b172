"""`cache clear` and `cache status`, on a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embeddings_pipeline.errors import ConfigurationError
from tests.support.commands import command
from tests.support.redis_server import PASSWORD, RedisServer
from tests.support.remembering import encoder_of


@pytest.fixture(autouse=True)
def remembered(redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three vectors of two texts, in the Redis that commands use."""
    monkeypatch.chdir(tmp_path)  # where no .env is
    monkeypatch.setenv("EMBEDDING_REDIS_URL", redis.url)
    encoder = encoder_of(redis)
    encoder.encode_documents(["pump", "hose"])
    encoder.encode_query(["pump"])


def test_the_vectors_of_named_models_are_cleared(redis: RedisServer) -> None:
    assert command("cache", "clear", "other/*").stdout == "0 vectors removed\n"
    assert command("cache", "clear", "fake/*").stdout == "3 vectors removed\n"
    assert redis.keys() == set()


def test_all_vectors_are_cleared_without_a_pattern(redis: RedisServer) -> None:
    assert command("cache", "clear").stdout == "3 vectors removed\n"


def test_status_tells_what_redis_holds_and_not_its_password() -> None:
    shown = command("cache", "status")
    assert "Redis has 3 keys" in shown.stdout
    document = json.loads(command("cache", "status", "--json").stdout)
    assert (document["redis"], document["server"]["keys"]) == ("in use", 3)
    assert document["server"]["misses"] >= 3
    assert PASSWORD not in shown.output


def test_status_says_where_redis_is_not_reached_or_not_configured(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.stop()
    assert "Redis is not reached" in command("cache", "status").stdout
    monkeypatch.delenv("EMBEDDING_REDIS_URL")
    assert "Redis is not configured" in command("cache", "status").stdout
    assert isinstance(command("cache", "clear").exception, ConfigurationError)
