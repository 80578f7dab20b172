"""The dbt project of a team as Dagster knows it: its manifest, and its models as assets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import dagster as dg
from dagster_shared.check import CheckError

from embeddings_pipeline.entities.manifest import load_manifest, meta_of
from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from dagster_dbt import DagsterDbtTranslator, DbtProject, DbtProjectComponent

logger = logging.getLogger(__name__)

Node = Mapping[str, Any]
Manifest = Mapping[str, Any]
ManifestSource: TypeAlias = "Path | str | Manifest | DbtProject | DbtProjectComponent"
Translation = Callable[[dg.AssetSpec, Node], dg.AssetSpec]


@dataclass(frozen=True)
class DbtModels:
    """The models of a manifest, and their assets.

    `path` is the manifest's, None where only its content is known. Below the folders `targets` each
    dbt build of the code location leaves a manifest of its own.
    """

    manifest: Manifest
    path: Path | None = None
    project: DbtProject | None = None
    translator: DagsterDbtTranslator | None = None
    translation: Translation | None = None
    targets: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        source: ManifestSource,
        translator: DagsterDbtTranslator | None = None,
        translation: Translation | None = None,
        targets: Sequence[Path] = (),
    ) -> DbtModels:
        """The models of a manifest's path or content, of a `DbtProject`, or of the component of a
        dbt project, whose translator is used unless another is given.

        Raises ConfigurationError where there is no manifest.
        """
        if isinstance(source, Mapping):
            return cls(source, None, None, translator, translation)
        project: Any = None
        if isinstance(source, str | Path):
            path = Path(source)
        elif hasattr(source, "manifest_path"):
            path, project = source.manifest_path, source
        elif hasattr(source, "dbt_project"):
            project = source.dbt_project
            path, translator = project.manifest_path, translator or source.translator
        else:
            raise ConfigurationError(
                f"manifest is a {type(source).__name__}: give the path of a manifest.json, its"
                " content, a DbtProject or a DbtProjectComponent"
            )
        folders = (path.parent, *targets)
        return cls(load_manifest(path), path, project, translator, translation, folders)

    def spec(self, node: Node) -> dg.AssetSpec:
        """The asset of a model, with its key and its owners."""
        if self.translator:
            spec = self.translator.get_asset_spec(self.manifest, node["unique_id"], self.project)
        else:
            spec = _default_spec(self.manifest, node)
        return self.translation(spec, node) if self.translation else spec

    def select(self, select: str, exclude: str) -> set[str]:
        """The unique ids that a dbt selection names."""
        from dagster_dbt.utils import select_unique_ids

        return set(
            select_unique_ids(
                select=select,
                exclude=exclude,
                selector="",
                project=self.project,
                manifest_json=self.manifest,
            )
        )


def _default_spec(manifest: Manifest, node: Node) -> dg.AssetSpec:
    """The key and the owners that dagster-dbt gives a model by default.

    `dagster_dbt` computes the same, and a test compares both; but importing it takes two seconds.
    """
    return dg.AssetSpec(key_of(node), owners=_owners_of(manifest, node))


def key_of(node: Node) -> dg.AssetKey:
    """The asset key of a model, seed or snapshot: from its meta, else its schema and name."""
    if asset_key := _dagster_meta(node).get("asset_key"):
        return dg.AssetKey(asset_key)
    if node.get("version"):
        return dg.AssetKey([node["alias"]])
    schema = node["config"].get("schema")
    return dg.AssetKey([schema, node["name"]] if schema else [node["name"]])


def _owners_of(manifest: Manifest, node: Node) -> list[str]:
    named = _dagster_meta(node).get("owners")
    if not named:
        groups = manifest.get("groups", {}).values()
        named = [g["owner"].get("email") for g in groups if g["name"] == node.get("group")]
    return valid_owners(named, node["name"])


def valid_owners(named: Any, model: str) -> list[str]:
    """The owners of a model that Dagster accepts: another one would prevent the whole code location
    from loading."""
    owners = []
    for owner in named if isinstance(named, list | tuple) else [named]:
        if not owner:
            continue
        try:
            dg.AssetSpec("owned", owners=[owner])
            owners.append(owner)
        except (dg.DagsterError, CheckError):
            logger.warning(
                "model %r: owner %r is left out: it is neither an email address nor team:NAME",
                model,
                owner,
            )
    return owners


def _dagster_meta(node: Node) -> Mapping[str, Any]:
    dagster = meta_of(node).get("dagster", {})
    return dagster if isinstance(dagster, dict) else {}
