"""What a dbt manifest declares, and what is said of a manifest that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import KEYS, declarations_of, entities_of, load_manifest
from embeddings_pipeline.errors import ConfigurationError


def model(name: str, *declarations: dict[str, Any], **more: Any) -> dict[str, Any]:
    embedding = declarations[0] if len(declarations) == 1 else list(declarations)
    config = {"meta": {"embedding": embedding}, "materialized": "view"}
    return {"name": name, "resource_type": "model", "schema": "staging", "config": config} | more


def manifest(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"nodes": {f"{node['resource_type']}.x.{node['name']}": node for node in nodes}}


def found_in(*nodes: dict[str, Any]) -> dict[str, Entity]:
    """The entities of these models, none of which is declared wrongly."""
    declared = entities_of(manifest(*nodes))
    assert declared.broken == {}
    return declared.entities


def refusal(*nodes: dict[str, Any]) -> str:
    """What is said of the only entity, whose declaration is wrong."""
    declared = entities_of(manifest(*nodes))
    assert declared.entities == {}
    (error,) = declared.broken.values()
    return str(error)


def test_entities_come_in_the_order_of_their_names() -> None:
    found = found_in(model("stg_shoe", {"id": "id"}), model("stg_lamp", {"id": "id"}))
    assert [(name, entity.name) for name, entity in found.items()] == [
        ("lamp", "lamp"),
        ("shoe", "shoe"),
    ]


@pytest.mark.parametrize(
    ("name", "entity"), [("stg_product", "product"), ("product", "product"), ("x_stg_y", "x_stg_y")]
)
def test_an_entity_is_named_after_its_model_without_stg(name: str, entity: str) -> None:
    assert list(found_in(model(name, {"id": "id"}))) == [entity]


def test_an_entity_reads_the_relation_that_dbt_builds() -> None:
    node = model("stg_product", {"id": "id"}, alias="products_clean", schema="dbt_staging")
    entity = found_in(node)["product"]
    assert (entity.db_schema, entity.table) == ("dbt_staging", "products_clean")


def test_one_model_can_feed_several_entities() -> None:
    caption = {"id": "id", "entity": "caption", "include": ["caption"]}
    title = {"id": "id", "entity": "title", "include": ["title"]}
    found = found_in(model("stg_frame", caption, title))
    assert {name: entity.include for name, entity in found.items()} == {
        "caption": ("caption",),
        "title": ("title",),
    }
    assert {entity.table for entity in found.values()} == {"stg_frame"}


def test_two_entities_of_one_name_are_refused_with_their_models() -> None:
    message = refusal(model("stg_product", {"id": "id"}), model("product", {"id": "id"}))
    assert message == (
        "entity 'product' is declared 2 times (stg_product, product): give each declaration"
        " its own `entity:`"
    )


def test_two_mappings_of_one_model_need_names_of_their_own() -> None:
    message = refusal(model("stg_frame", {"id": "id"}, {"id": "id"}))
    assert "entity 'frame' is declared 2 times (stg_frame, stg_frame)" in message


def test_models_that_declare_nothing_are_passed_over() -> None:
    silent = model("stg_quiet", {}) | {"config": {"meta": {"owner": "data"}}}
    none = model("stg_none", {}) | {"config": {"meta": {"embedding": None}}}
    seed = model("stg_seed", {"id": "id"}, resource_type="seed")
    assert found_in(silent, none, seed, model("stg_empty")) == {}


def test_meta_outside_of_config_is_read_too() -> None:
    node = model("stg_product", {}) | {"config": {}, "meta": {"embedding": {"id": "sku"}}}
    assert found_in(node)["product"].id == "sku"
    assert declarations_of(node) == [{"id": "sku"}]


def test_an_ephemeral_model_is_refused() -> None:
    node = model("stg_product", {"id": "id"})
    node["config"]["materialized"] = "ephemeral"
    assert refusal(node).startswith("model 'stg_product' is ephemeral and cannot be read: ")


@pytest.mark.parametrize("key", ["titel", "name", "db_schema", "table", 5])
def test_an_unknown_key_is_named_with_its_model_and_the_choices(key: Any) -> None:
    message = refusal(model("stg_product", {"id": "id", key: "x"}))
    assert message == (
        f"model 'stg_product': meta.embedding has no key {key!r} (keys: {', '.join(KEYS)})"
    )
    assert {"id", "entity", "template"} < set(KEYS)


@pytest.mark.parametrize("declaration", ["id", 5, True, ["id"]])
def test_a_declaration_that_is_no_mapping_is_refused(declaration: Any) -> None:
    message = refusal(model("stg_product", declaration))
    assert message.startswith("model 'stg_product': meta.embedding must be a mapping (keys: ")


def test_every_wrong_value_of_a_declaration_is_named_at_once() -> None:
    message = refusal(model("stg_product", {"id": "", "limit": 0, "metric": "cos"}))
    assert message == (
        "model 'stg_product': meta.embedding.id is '': must not be empty;"
        " meta.embedding.metric is 'cos': must be 'cosine', 'l2' or 'ip';"
        " meta.embedding.limit is 0: must be at least 1"
    )


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ({"id": "id", "colour": "red"}, "has no key 'colour'"),
        ({"id": "id", "limit": 0}, "meta.embedding.limit is 0: must be at least 1"),
        ({}, "meta.embedding.id is missing"),
        (5, "meta.embedding must be a mapping"),
        ({"id": "id", "entity": 5}, "meta.embedding.entity is 5: must be text"),
        ({"id": "id", "freshness": {"warn": "1s", "fail": "2s"}}, "at least 1m"),
    ],
)
def test_a_wrong_declaration_keeps_no_other_from_being_read(declaration: Any, said: str) -> None:
    wrong = model("stg_lamp", declaration, patch_path="shop://models/staging/stg_lamp.yml")
    declared = entities_of(manifest(wrong, model("stg_shoe", {"id": "id"})))
    assert list(declared.entities) == ["shoe"]
    message = str(declared.broken["lamp"])
    assert message.startswith("model 'stg_lamp' (models/staging/stg_lamp.yml): meta.embedding")
    assert said in message
    assert [(n, m["name"]) for n, m in declared.models.items()] == [
        ("lamp", "stg_lamp"),
        ("shoe", "stg_shoe"),
    ]


def test_a_wrong_mapping_keeps_no_other_of_its_model_from_being_read() -> None:
    wrong = {"id": "id", "entity": "caption", "colour": "red"}
    declared = entities_of(manifest(model("stg_frame", wrong, {"id": "id"})))
    assert (list(declared.entities), list(declared.broken)) == (["frame"], ["caption"])


def test_a_name_used_twice_keeps_no_other_from_being_read() -> None:
    twice = [model("stg_product", {"id": "id"}), model("product", {"id": "id", "limit": 0})]
    declared = entities_of(manifest(*twice, model("stg_shoe", {"id": "id"})))
    assert list(declared.entities) == ["shoe"]
    message = str(declared.broken["product"])
    assert "declared 2 times (stg_product, product)" in message
    assert "limit is 0" in message


def test_of_a_versioned_model_the_latest_version_is_the_entity() -> None:
    versions = [
        model("stg_item", {"id": "id"}, version=v, latest_version=2, alias=f"stg_item_v{v}")
        for v in (1, 2, 3)
    ]
    for n, node in enumerate(versions):
        node["unique_id"] = f"model.shop.stg_item.v{n + 1}"
    declared = entities_of({"nodes": {node["unique_id"]: node for node in versions}})
    assert declared.broken == {}
    assert declared.entities["item"].table == "stg_item_v2"


def test_an_older_version_that_alone_declares_an_entity_is_that_entity() -> None:
    node = model("stg_item", {"id": "id"}, version=1, latest_version=2, alias="stg_item_v1")
    assert entities_of(manifest(node)).entities["item"].table == "stg_item_v1"


@pytest.mark.parametrize("key", ["embeddings", "Embedding", "embeding", "embed"])
def test_a_key_that_looks_like_a_declaration_is_told_with_the_one_that_is_meant(key: str) -> None:
    node = model("stg_lamp", patch_path="shop://models/stg_lamp.yml")
    node["config"]["meta"] = {key: {"id": "id"}, "modelling": "star", "owner": "me"}
    assert entities_of(manifest(node)).warnings == [
        f"model 'stg_lamp' (models/stg_lamp.yml): meta.{key} is not read: the key is meta.embedding"
    ]


def test_a_declaration_in_a_wrong_place_is_told() -> None:
    config = model("stg_lamp")
    config["config"]["embedding"] = {"id": "id"}
    column = model("stg_shoe", columns={"id": {"config": {"meta": {"embedding": {"id": "id"}}}}})
    seed = model("raw_shoe", {"id": "id"}, resource_type="seed")
    declared = entities_of(manifest(config, column, seed))
    assert declared.entities == {}
    assert declared.warnings == [
        "model 'stg_lamp': config.embedding is not read: write it as config.meta.embedding",
        "model 'stg_shoe': meta.embedding of column 'id' is not read: it belongs to the model",
        "seed 'raw_shoe': meta.embedding is not read here: only a model can declare an entity",
    ]


def test_a_right_declaration_is_not_warned_of() -> None:
    assert entities_of(manifest(model("stg_product", {"id": "id"}))).warnings == []


def test_a_manifest_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest(model("stg_product", {"id": "id"}))))
    assert list(entities_of(load_manifest(path)).entities) == ["product"]


def test_a_missing_manifest_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no dbt manifest at .*DBT_MANIFEST"):
        load_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "is not a dbt manifest"),
        (b"{}", "is not a dbt manifest"),
        (b'{"nodes": []}', "is not a dbt manifest"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{path}.*{reason}"):
        load_manifest(path)


def test_a_manifest_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path} cannot be read"):
        load_manifest(tmp_path)
