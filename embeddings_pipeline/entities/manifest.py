"""Reads the entities that a dbt manifest declares in `meta.embedding`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embeddings_pipeline.entities.entity import Entity, describe_problem
from embeddings_pipeline.errors import ConfigurationError

_GIVEN_BY_DBT = {"name", "db_schema", "table"}
KEYS = sorted({"entity", *Entity.model_fields} - _GIVEN_BY_DBT)


def load_manifest(path: Path) -> dict[str, Any]:
    """Return the JSON of a manifest. Raises ConfigurationError for a missing or damaged file."""
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


@dataclass(frozen=True)
class Declared:
    """The declarations of a manifest, each mapping ordered by entity name.

    `entities` are valid. `broken` has the error of each wrong declaration. `models` has the dbt
    node of each entity of both kinds.
    """

    entities: dict[str, Entity] = field(default_factory=dict)
    broken: dict[str, ConfigurationError] = field(default_factory=dict)
    models: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def entities_of(manifest: Mapping[str, Any]) -> Declared:
    """Return the entities that the models of a manifest declare.

    An unknown key, a wrong value or a duplicate name breaks only its own entity. The error names
    the model, its yml, the key and the choices.
    """
    found: dict[str, list[tuple[Mapping[str, Any], Entity | ConfigurationError]]] = {}
    for node, declaration in _declarations(manifest):
        entity: Entity | ConfigurationError
        try:
            entity = entity_of(node, declaration)
        except ConfigurationError as error:
            entity = error
        found.setdefault(_name_of(node, declaration), []).append((node, entity))
    declared = Declared()
    for name, uses in sorted(found.items()):
        node, entity = uses[0]
        declared.models[name] = node
        if len(uses) > 1:
            declared.broken[name] = _used_twice(name, uses)
        elif isinstance(entity, Entity):
            declared.entities[name] = entity
        else:
            declared.broken[name] = entity
    return declared


def declarations_of(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the `meta.embedding` mappings of a manifest's node; an empty list without any."""
    meta = node.get("config", {}).get("meta", {}) or node.get("meta", {})
    declared = meta.get("embedding")
    if declared is None:
        return []
    return list(declared) if isinstance(declared, list) else [declared]


def describe_location(node: Mapping[str, Any]) -> str:
    """Name a model and its file: `model 'stg_item' (models/staging/stg_item.yml)`."""
    _, _, file = (node.get("patch_path") or "").rpartition("://")
    return f"model {node['name']!r}" + (f" ({file})" if file else "")


def _declarations(manifest: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    for node in manifest.get("nodes", {}).values():
        if node.get("resource_type") == "model":
            for declaration in declarations_of(node):
                yield node, declaration


def _name_of(node: Mapping[str, Any], declaration: Any) -> str:
    """Return the declared name, also of a wrong declaration."""
    named = declaration.get("entity") if isinstance(declaration, Mapping) else None
    return named if isinstance(named, str) else str(node["name"]).removeprefix("stg_")


def _used_twice(
    name: str, uses: list[tuple[Mapping[str, Any], Entity | ConfigurationError]]
) -> ConfigurationError:
    tables = ", ".join(node.get("alias") or node["name"] for node, _ in uses)
    messages = [
        f"entity {name!r} is declared {len(uses)} times ({tables}): give each declaration its own"
        " `entity:`",
        *(str(error) for _, error in uses if isinstance(error, ConfigurationError)),
    ]
    return ConfigurationError("; ".join(messages))


def entity_of(node: Mapping[str, Any], declaration: Mapping[str, Any]) -> Entity:
    """Return the entity of one declaration.

    Raises ConfigurationError that names the model and the key.
    """
    model, place = node["name"], describe_location(node)
    if not isinstance(declaration, Mapping):
        raise ConfigurationError(
            f"{place}: meta.embedding must be a mapping (keys: {', '.join(KEYS)})"
        )
    if node.get("config", {}).get("materialized") == "ephemeral":
        raise ConfigurationError(
            f"{place} is ephemeral and cannot be read: make it a view or a table"
        )
    for key in declaration:
        if key not in KEYS:
            raise ConfigurationError(
                f"{place}: meta.embedding has no key {key!r} (keys: {', '.join(KEYS)})"
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
        problems = "; ".join(describe_problem(problem) for problem in error.errors())
        raise ConfigurationError(f"{place}: {problems}") from None
