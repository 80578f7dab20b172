"""Builds dbt models with the dbt command: those from which vectors are made, and those that read
them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embeddings_pipeline import dbt_command
from embeddings_pipeline.dbt_command import Build
from embeddings_pipeline.entities.manifest import entities_of
from embeddings_pipeline.errors import EmbeddingsError, Failures
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.connection import Postgres, columns_of

Manifest = Mapping[str, Any]
Node = Mapping[str, Any]

_BUILT = ("model", "seed", "snapshot")


@dataclass(frozen=True)
class StagingBuild:
    """The manifest that dbt wrote, why some entities' models cannot be used, and what dbt did."""

    manifest: Manifest
    failures: Failures
    build: Build | None


def build_staging(
    settings: Settings,
    staging: Postgres,
    manifest: Manifest,
    names: Sequence[str],
    *,
    seeds: bool = False,
) -> StagingBuild:
    """Build the staging models of these entities, or of all, with one dbt command.

    `manifest` says which models these are, and is replaced by the one that dbt writes: where that
    declares others, or models elsewhere, dbt runs again. Models and seeds that they read are built
    where they are missing; with `seeds`, all seeds.
    """
    if not {*names} <= {*entities_of(manifest).models}:
        manifest = dbt_command.parse(settings, staging.database)
    built: set[str] = set()
    build: Build | None = None
    while True:
        declared = entities_of(manifest)
        models = {
            name: declared.models[name] for name in declared.entities if not names or name in names
        }
        wanted = {node["unique_id"] for node in models.values()}
        for node in _read_by(manifest, wanted):
            if (seeds and node["resource_type"] == "seed") or not _exists(staging, node):
                wanted.add(node["unique_id"])
        if wanted <= built:
            break
        build = dbt_command.build(settings, staging.database, _nodes(manifest, wanted))
        manifest, built = build.manifest, built | wanted
    failures = Failures()
    for name, node in models.items():
        if build and (problem := build.problem(node["unique_id"])):
            failures[name] = EmbeddingsError(problem)
    return StagingBuild(manifest, failures, build)


def left_as_built(manifest: Manifest, names: Iterable[str]) -> dict[str, str]:
    """A remark on each of these entities whose model reads tables or snapshots that are not built
    again with it."""
    models = entities_of(manifest).models
    remarks = {}
    for name in names:
        model = models[name]
        read = [
            node["name"]
            for node in _read_by(manifest, [model["unique_id"]])
            # a seed is as its file says until that is edited
            if node["resource_type"] != "seed" and node["config"]["materialized"] != "view"
        ]
        if read:
            remarks[name] = (
                f"{model['name']} reads {', '.join(read)}, which `run` and `plan --dbt` build only"
                f" where it is missing: `dbt build --select +{model['name']}` brings it up to date"
            )
    return remarks


def build_marts(settings: Settings, staging: Postgres, manifest: Manifest) -> Build | None:
    """Build the models that read the published views, with one dbt command; None where there are
    none. Raises EmbeddingsError with what dbt says of models that it cannot build."""
    marts = _marts(settings, manifest)
    if not marts:
        return None
    build = dbt_command.build(settings, staging.database, marts)
    problems = {node["name"]: build.problem(node["unique_id"]) for node in marts}
    if wrong := [problem for problem in problems.values() if problem]:
        raise EmbeddingsError("\n".join(dict.fromkeys(wrong)))
    return build


def is_built(staging: Postgres, schema: str, table: str) -> bool:
    """Whether there is a table or view of this name."""
    with staging.connection() as connection:
        return bool(columns_of(connection, schema, table))


def _marts(settings: Settings, manifest: Manifest) -> list[Node]:
    published = {f"{name}_embeddings" for name in entities_of(manifest).models}
    published.add("entity_coverage")
    sources = {
        unique_id
        for unique_id, source in manifest["sources"].items()
        if source["schema"] == settings.pgvector_schema and source["identifier"] in published
    }
    return _nodes(manifest, _reachable(sources, manifest["child_map"].get))


def _read_by(manifest: Manifest, unique_ids: Iterable[str]) -> list[Node]:
    """The models, seeds and snapshots that these read, directly or through others."""
    # a manifest that is given may hold no more than the declarations
    return _nodes(manifest, _reachable(unique_ids, manifest.get("parent_map", {}).get))


def _reachable(start: Iterable[str], step: Callable[[str, Any], Any]) -> set[str]:
    found: set[str] = set()
    waiting = [*start]
    while waiting:
        reached = {*step(waiting.pop(), ())} - found
        found |= reached
        waiting += reached
    return found


def _nodes(manifest: Manifest, unique_ids: Iterable[str]) -> list[Node]:
    nodes = [manifest["nodes"].get(unique_id) for unique_id in sorted(unique_ids)]
    return [
        node
        for node in nodes
        if node
        and node["resource_type"] in _BUILT
        and node["config"]["materialized"] != "ephemeral"
    ]


def _exists(staging: Postgres, node: Node) -> bool:
    return is_built(staging, node["schema"], node["alias"])
