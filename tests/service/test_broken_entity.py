"""The service while one of two entities cannot be read: the other is searched as ever."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from embeddings_pipeline.service.models import Models
from tests.support.answers import assert_problem
from tests.support.published_shop import publish_shop
from tests.support.serving import served
from tests.support.waiting import until
from tests.support.world import SCHEMA, World

Ask = Callable[[str], httpx.Response]


@pytest.fixture
def shops(world: World) -> World:
    """The entities `item` and `other`, published."""
    publish_shop(world)
    world.table("id bigint, name text, price float8", "stg_other")
    world.insert((1, "red shoe", 1.0), name="stg_other")
    world.run(world.declare("other", include=["name"], where="price > 0"))
    return world


def search(client: httpx.Client, entity: str) -> httpx.Response:
    return client.post("/search", json={"entity": entity, "query": "red shoe", "top_k": 1})


def sync(client: httpx.Client, entity: str) -> httpx.Response:
    return client.post(f"/entities/{entity}/documents", json={"ids": ["1"]})


def assert_the_item_is_as_ever(client: httpx.Client) -> None:
    assert [hit["id"] for hit in search(client, "item").json()["results"]] == ["1"]
    assert sync(client, "item").json()["documents"][0]["status"] == "searchable"
    assert client.get("/similar/item/1").status_code == 200
    until(lambda: client.get("/health/ready").status_code == 200)
    assert client.get("/health").status_code == 200
    assert "item" in [e["entity"] for e in client.get("/entities").json()["entities"]]
    (state,) = [e for e in client.get("/stats").json()["entities"] if e["entity"] == "item"]
    assert (state["rows"], state["problem"]) == (5, None)
    metrics = client.get("/metrics").text
    assert "database_up 1.0" in metrics
    assert 'entity_rows{entity="item"} 5.0' in metrics


def test_a_stored_declaration_that_cannot_be_read_fails_its_entity_alone(shops: World) -> None:
    shops.sql(
        f"update {SCHEMA}.entities set definition = definition || '{{\"colour\": 1}}'"
        " where entity = 'other'"
    )
    with served(shops.database, shops.encoder) as client:
        assert_the_item_is_as_ever(client)
        for answer in (search(client, "other"), sync(client, "other")):
            said = assert_problem(answer, 409)
            assert said.startswith("entity 'other': the declaration that its last run stored")
            assert "colour" in said
            assert "run `embeddings-pipeline run other` first" in said
        assert [e["entity"] for e in client.get("/entities").json()["entities"]] == ["item"]
        item, other = client.get("/stats").json()["entities"]
        assert (item["entity"], other["entity"]) == ("item", "other")
        assert "colour" in other["problem"]
        assert 'entity="other"' not in client.get("/metrics").text


def test_a_condition_that_is_wrong_by_now_fails_new_documents_of_its_entity_alone(
    shops: World,
) -> None:
    shops.sql("alter table staging.stg_other rename price to prize")
    with served(shops.database, shops.encoder) as client:
        assert_the_item_is_as_ever(client)
        said = assert_problem(sync(client, "other"), 422)
        assert said == (
            'entity \'other\': where: "price > 0": column "price" does not exist'
            " (columns: id, name, prize)"
        )
        assert search(client, "other").status_code == 200


def test_a_staging_model_that_is_gone_fails_new_documents_of_its_entity_alone(
    shops: World,
) -> None:
    shops.sql("drop table staging.stg_other")
    with served(shops.database, shops.encoder) as client:
        assert_the_item_is_as_ever(client)
        said = assert_problem(sync(client, "other"), 422)
        assert said.startswith("entity 'other': there is no staging.stg_other")
        assert search(client, "other").status_code == 200


def test_tables_that_somebody_dropped_fail_their_entity_alone(shops: World) -> None:
    shops.sql(f"drop table {SCHEMA}.other_vectors_1 cascade")
    with served(shops.database, shops.encoder) as client:
        assert_the_item_is_as_ever(client)
        assert "'other'" in assert_problem(search(client, "other"), 422)


def test_a_model_that_cannot_be_loaded_keeps_no_other_from_being_loaded(
    shops: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = shops.encoder.revised("r2")
    shops.use(newer)
    shops.run(shops.declare("other", include=["name"], where="price > 0"))
    load = Models.load
    item = shops.sets(shops.declare(include=["name"]))[0].identity

    def broken(models: Models, identity: object) -> None:
        if identity != item:
            raise RuntimeError("the file of the model is cut short")
        load(models, item)

    monkeypatch.setattr(Models, "load", broken)
    shops.encoder = shops.encoder.revised(item.revision)
    with served(shops.database, shops.encoder) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
