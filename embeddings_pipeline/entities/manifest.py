"""Finds the dbt manifest, and reads the entities that it declares in `meta.embedding`."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embeddings_pipeline.entities.entity import Entity, describe_problem
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

MANIFEST = "manifest.json"
_KEY = "embedding"
# `embed` and `Embeddings` are similar, `modelling` is not
_SIMILAR = 0.7
_GIVEN_BY_DBT = {"name", "db_schema", "table"}
KEYS = sorted({"entity", *Entity.model_fields} - _GIVEN_BY_DBT)
# the nodes that declare an entity, each with the entity or the error of its declaration
_Uses = list[tuple[Mapping[str, Any], Entity | ConfigurationError]]


def target_dir(settings: Settings) -> Path:
    """The folder to which the dbt commands of this deployment write.

    It is outside of the dbt project, which may be read-only or shared, and another for each
    project, target and schema.
    """
    project = settings.dbt_project_dir.resolve()
    parts = (project, settings.dbt_profiles_dir, settings.dbt_target, settings.pgvector_schema)
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    return settings.embedded_data_dir / "dbt" / f"{project.name}-{digest[:8]}"


def manifest_path(settings: Settings) -> Path:
    """DBT_MANIFEST, or the manifest that dbt wrote last for the project: for a command of this
    deployment, or in the project's own `target`. It may not exist."""
    if settings.dbt_manifest:
        return settings.dbt_manifest
    own = target_dir(settings) / MANIFEST
    written = settings.dbt_project_dir / "target" / MANIFEST
    return max(own, written, key=lambda path: path.stat().st_mtime if path.exists() else 0.0)


def load_manifest(path: Path) -> dict[str, Any]:
    """Return the JSON of a manifest. Raises ConfigurationError for a missing or damaged file."""
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(
            f"no dbt manifest at {path}: `embeddings-pipeline plan` writes one, and so does `dbt"
            " parse`; DBT_MANIFEST names another"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the dbt manifest at {path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("nodes"), dict):
        raise ConfigurationError(f"{path} is not a dbt manifest: it has no nodes")
    return manifest


@dataclass(frozen=True)
class Declared:
    """The declarations of a manifest, each mapping ordered by entity name.

    `entities` are valid. `broken` has the error of each wrong declaration. `models` has the dbt
    node of each entity of both kinds. `warnings` name keys that look like a declaration and are
    not read.
    """

    entities: dict[str, Entity] = field(default_factory=dict)
    broken: dict[str, ConfigurationError] = field(default_factory=dict)
    models: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def entity(self, name: str) -> Entity:
        """One entity. Raises ConfigurationError with the errors of its declaration, or for an
        unknown name with the choices."""
        if name in self.broken:
            raise self.broken[name]
        if name not in self.entities:
            raise ConfigurationError(
                f"there is no entity {name!r} (entities: {', '.join(self.models)})"
            )
        return self.entities[name]


def entities_of(manifest: Mapping[str, Any]) -> Declared:
    """Return the entities that the models of a manifest declare.

    An unknown key, a wrong value or a duplicate name breaks only its own entity. The error names
    the model, its yml, the key and the choices.
    """
    found: dict[str, _Uses] = {}
    for node, declaration in _declarations(manifest):
        entity: Entity | ConfigurationError
        try:
            entity = entity_of(node, declaration)
        except ConfigurationError as error:
            entity = error
        found.setdefault(_name_of(node, declaration), []).append((node, entity))
    declared = Declared(warnings=[*_warnings(manifest)])
    for name, declarations in sorted(found.items()):
        uses = _of_latest_version(declarations)
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
    declared = meta_of(node).get(_KEY)
    if declared is None:
        return []
    return list(declared) if isinstance(declared, list) else [declared]


def meta_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `meta` of a node or of a column, which older versions of dbt keep outside of `config`."""
    return node.get("config", {}).get("meta") or node.get("meta") or {}


def describe_location(node: Mapping[str, Any]) -> str:
    """Name a model and its file: `model 'stg_item' (models/staging/stg_item.yml)`."""
    _, _, file = (node.get("patch_path") or "").rpartition("://")
    kind = node.get("resource_type") or "model"
    file = file or (node["original_file_path"] if kind == "source" else "")
    return f"{kind} {node['name']!r}" + (f" ({file})" if file else "")


def _declarations(manifest: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    for node in manifest.get("nodes", {}).values():
        if node.get("resource_type") == "model":
            for declaration in declarations_of(node):
                yield node, declaration


def _warnings(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the project may take for a declaration, but no run reads."""
    for node in {**manifest.get("nodes", {}), **manifest.get("sources", {})}.values():
        place = describe_location(node)
        meta = meta_of(node)
        if _KEY in meta and node.get("resource_type") != "model":
            yield f"{place}: meta.{_KEY} is not read here: only a model can declare an entity"
        for key in difflib.get_close_matches(_KEY, map(str, meta), n=9, cutoff=_SIMILAR):
            if key != _KEY:
                yield f"{place}: meta.{key} is not read: the key is meta.{_KEY}"
        for key in difflib.get_close_matches(
            _KEY, map(str, node.get("config", {})), n=9, cutoff=_SIMILAR
        ):
            yield f"{place}: config.{key} is not read: write it as config.meta.{_KEY}"
        for name, column in (node.get("columns") or {}).items():
            if _KEY in meta_of(column):
                yield (
                    f"{place}: meta.{_KEY} of column {name!r} is not read: it belongs to the model"
                )


def _name_of(node: Mapping[str, Any], declaration: Any) -> str:
    """Return the declared name, also of a wrong declaration."""
    named = declaration.get("entity") if isinstance(declaration, Mapping) else None
    return named if isinstance(named, str) else _default_name(node)


def _default_name(node: Mapping[str, Any]) -> str:
    return str(node["name"]).removeprefix("stg_")


def _of_latest_version(uses: _Uses) -> _Uses:
    """Without the older versions of a model, which dbt gives the model's meta, too."""
    latest = [use for use in uses if use[0].get("version") == use[0].get("latest_version")]
    versions = {node["name"] for node, _ in latest}
    return latest + [use for use in uses if use not in latest and use[0]["name"] not in versions]


def _used_twice(name: str, uses: _Uses) -> ConfigurationError:
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
    place = describe_location(node)
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
            name=declaration.get("entity", _default_name(node)),
            db_schema=node["schema"],
            table=node.get("alias") or node["name"],
            **values,
        )
    except ValidationError as error:
        problems = "; ".join(describe_problem(problem) for problem in error.errors())
        raise ConfigurationError(f"{place}: {problems}") from None
