"""Reads the entities that a dbt manifest declares in `meta.embedding`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embeddings_pipeline.entities._problems import sentence
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError

_GIVEN_BY_DBT = {"name", "db_schema", "table"}
KEYS = sorted({"entity", *Entity.model_fields} - _GIVEN_BY_DBT)


def load_manifest(path: Path) -> dict[str, Any]:
    """The manifest's JSON. Raises ConfigurationError where it is missing or broken."""
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(
            f"no dbt manifest at {path}: run `dbt parse` in the dbt project, or any command of"
            " embeddings-pipeline that builds it"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the dbt manifest at {path} cannot be read: {error}") from None
    if not isinstance(manifest.get("nodes") if isinstance(manifest, dict) else None, dict):
        raise ConfigurationError(f"{path} is not a dbt manifest: it has no nodes")
    return dict(manifest)


def entities_of(manifest: Mapping[str, Any]) -> dict[str, Entity]:
    """Entities by name, in order of their names.

    Raises ConfigurationError for an unknown key, a wrong value or a name used twice; the message
    names the model, the key and the choices.
    """
    found = sorted(_declared(manifest), key=lambda entity: entity.name)
    for name, times in Counter(entity.name for entity in found).items():
        if times > 1:
            tables = ", ".join(entity.table for entity in found if entity.name == name)
            raise ConfigurationError(
                f"entity {name!r} is declared {times} times ({tables}): give each an `entity:` of"
                " its own"
            )
    return {entity.name: entity for entity in found}


def declarations_of(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The `meta.embedding` mappings of a manifest's node; none where it declares nothing."""
    meta = node.get("config", {}).get("meta", {}) or node.get("meta", {})
    declared = meta.get("embedding")
    if declared is None:
        return []
    return list(declared) if isinstance(declared, list) else [declared]


def _declared(manifest: Mapping[str, Any]) -> Iterator[Entity]:
    for node in manifest.get("nodes", {}).values():
        if node.get("resource_type") == "model":
            for declaration in declarations_of(node):
                yield entity_of(node, declaration)


def entity_of(node: Mapping[str, Any], declaration: Mapping[str, Any]) -> Entity:
    """One entity of a dbt model. Raises ConfigurationError that names the model and the key."""
    model = node["name"]
    if not isinstance(declaration, Mapping):
        raise ConfigurationError(
            f"model {model!r}: meta.embedding must be a mapping (keys: {', '.join(KEYS)})"
        )
    if node.get("config", {}).get("materialized") == "ephemeral":
        raise ConfigurationError(
            f"model {model!r} is ephemeral and cannot be read: make it a view or a table"
        )
    for key in declaration:
        if key not in KEYS:
            raise ConfigurationError(
                f"model {model!r}: meta.embedding has no key {key!r} (keys: {', '.join(KEYS)})"
            )
    values = {key: value for key, value in declaration.items() if key != "entity"}
    try:
        return Entity(
            name=declaration.get("entity", model.removeprefix("stg_")),
            db_schema=node["schema"],
            table=node.get("alias") or model,
            **values,
        )
    except ValidationError as error:
        problems = "; ".join(sentence(problem) for problem in error.errors())
        raise ConfigurationError(f"model {model!r}: {problems}") from None
