"""Declares an entity as a model's yml would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import entity_of
from embeddings_pipeline.errors import ConfigurationError
from tests.support.environment import only_settings
from tests.support.world import World


def declared(model: str = "stg_product", /, **keys: Any) -> Entity:
    return entity_of({"name": model, "schema": "staging"}, {"id": "product_id", **keys})


def manifest_of(entity: str, **keys: Any) -> dict[str, Any]:
    """The manifest of a dbt project that declares this entity alone, of `staging.stg_<entity>`."""
    node = {
        "unique_id": f"model.shop.stg_{entity}",
        "resource_type": "model",
        "name": f"stg_{entity}",
        "schema": "staging",
        "config": {"meta": {"embedding": keys}},
    }
    return {"nodes": {node["unique_id"]: node}, "sources": {}}


def refusal(model: str = "stg_product", /, **keys: Any) -> str:
    """What is said of a wrong declaration, after the model's name."""
    with pytest.raises(ConfigurationError) as error:
        declared(model, **keys)
    message = str(error.value)
    for jargon in ("type=", "value_error", "Value error", "pydantic", "Input", "tuple", "dict"):
        assert jargon not in message
    prefix = f"model {model!r}: meta.embedding"
    assert message.startswith(prefix)
    return message.removeprefix(prefix).lstrip(".: ")


def use_manifest(patch: pytest.MonkeyPatch, world: World, folder: Path) -> None:
    """Make a command in this folder read the rows of a world, as `manifest.json` declares them."""
    only_settings(
        patch,
        STAGING_DB_URL=world.database.url,
        PGVECTOR_URL=world.database.url,
        DBT_MANIFEST=str(folder / "manifest.json"),
    )
    patch.chdir(folder)


def write_manifest(path: Path, **keys: Any) -> Path:
    """A manifest of one entity, `item` over staging.stg_item."""
    declared = {"id": "id", "entity": "item", **keys}
    node = {
        **{"resource_type": "model", "name": "stg_item", "schema": "staging"},
        **{"alias": "stg_item", "original_file_path": "models/stg_item.yml"},
        **{"config": {"meta": {"embedding": declared}, "materialized": "view", "enabled": True}},
        **{"unique_id": "model.shop.stg_item", "depends_on": {"nodes": []}, "columns": {}},
    }
    path.write_text(json.dumps({"nodes": {"model.shop.stg_item": node}, "sources": {}}))
    return path
