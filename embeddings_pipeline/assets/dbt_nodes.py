"""dbt's models, seeds and tests as Dagster's assets and checks, read from the manifest.

`dagster_dbt` gives the same specs (a test compares the two), but importing it imports dbt: two
seconds in each process that loads the definitions. It is imported where dbt runs.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster_shared.check import CheckError

logger = logging.getLogger(__name__)

Node = Mapping[str, Any]
Manifest = Mapping[str, Any]

_ASSETS = ("model", "seed", "snapshot")


def key_of(node: Node) -> dg.AssetKey:
    """The asset key of a model, seed, snapshot or source: from its meta, else schema and name."""
    asset_key = _meta(node).get("asset_key")
    if asset_key and isinstance(asset_key, list):
        return dg.AssetKey([str(part) for part in asset_key])
    if asset_key:
        return dg.AssetKey(str(asset_key))
    if node["resource_type"] == "source":
        return dg.AssetKey([node["source_name"], node["name"]])
    if node.get("version"):
        return dg.AssetKey([node["alias"]])
    schema = node["config"].get("schema")
    return dg.AssetKey([schema, node["name"]] if schema else [node["name"]])


def asset_nodes(manifest: Manifest) -> dict[str, Node]:
    """The nodes that are assets, by their unique ids."""
    return {
        unique_id: node
        for unique_id, node in manifest["nodes"].items()
        if node["resource_type"] in _ASSETS and not _is_ephemeral(node)
    }


def parents(manifest: Manifest, node: Node) -> set[str]:
    """Unique ids of the assets and sources that a node reads, through ephemeral models."""
    found = set()
    for unique_id in node["depends_on"].get("nodes", []):
        parent = manifest["nodes"].get(unique_id)
        if unique_id in manifest["sources"] or (parent and not _is_ephemeral(parent)):
            found.add(unique_id)
        elif parent:
            found |= parents(manifest, parent)
    return found


def descendants(manifest: Manifest, keys: Iterable[dg.AssetKey]) -> set[str]:
    """Unique ids of the assets that read one of these assets, directly or through others."""
    read = set(keys)
    found = {uid for uid, source in manifest["sources"].items() if key_of(source) in read}
    remaining = dict(asset_nodes(manifest))
    while reached := {uid for uid, n in remaining.items() if parents(manifest, n) & found}:
        found |= reached
        for unique_id in reached:
            del remaining[unique_id]
    return found & set(asset_nodes(manifest))


def read_by(manifest: Manifest, nodes: Iterable[Node]) -> list[Node]:
    """The models and seeds that these nodes and their tests read, directly or through others."""
    tests = [test for test in manifest["nodes"].values() if test["resource_type"] == "test"]
    models = {node["unique_id"] for node in nodes}
    waiting = [*nodes, *(test for test in tests if _tested(test) in models)]
    seen = set[str]()
    while waiting:
        found = parents(manifest, waiting.pop()) & set(manifest["nodes"]) - seen
        seen |= found
        waiting += [manifest["nodes"][unique_id] for unique_id in found]
    return [manifest["nodes"][unique_id] for unique_id in sorted(seen - models)]


def asset_spec(manifest: Manifest, unique_id: str) -> dg.AssetSpec:
    """The spec that Dagster shows of a node before it is built."""
    node = manifest["nodes"][unique_id]
    upstream = [{**manifest["nodes"], **manifest["sources"]}[p] for p in parents(manifest, node)]
    return dg.AssetSpec(
        key=key_of(node),
        deps=sorted({key_of(parent) for parent in upstream}),
        description=node.get("description") or f"dbt {node['resource_type']} {node['name']}",
        metadata=_columns(node) | {"sql": dg.MetadataValue.md(f"```sql\n{_code(node)}\n```")},
        group_name=_group(node),
        code_version=hashlib.sha1(_code(node).encode(), usedforsecurity=False).hexdigest()
        if _code(node)
        else node["checksum"]["checksum"],
        owners=owners(manifest, node),
        tags={tag: "" for tag in node["tags"] if re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", tag)},
        kinds={"dbt", manifest["metadata"]["adapter_type"], node["resource_type"]},
        skippable=True,
    )


def check_specs(manifest: Manifest, unique_ids: Iterable[str]) -> Iterator[dg.AssetCheckSpec]:
    """The tests of these nodes. A failing test of severity error blocks the assets downstream."""
    nodes = {**manifest["nodes"], **manifest["sources"]}
    tested = set(unique_ids)
    for unique_id, test in manifest["nodes"].items():
        node = _tested(test) if test["resource_type"] == "test" else None
        if node in tested:
            others = {key_of(nodes[parent]) for parent in parents(manifest, test) - {node}}
            yield dg.AssetCheckSpec(
                name=test["name"],
                asset=key_of(nodes[node]),
                description=test["description"] or None,
                additional_deps=sorted(others),
                metadata={"unique_id": unique_id},
                blocking=(test["config"]["severity"] or "error").lower() == "error",
            )


def owners(manifest: Manifest, node: Node) -> list[str]:
    """The owners that a node's meta or its dbt group names."""
    if named := _meta(node).get("owners"):
        return _owners(node, named)
    for group in manifest.get("groups", {}).values():
        if group["name"] == node.get("group") and (email := group["owner"].get("email")):
            return _owners(node, email)
    return []


def _owners(node: Node, named: Any) -> list[str]:
    """The owners that Dagster accepts: any other would prevent the definitions from loading."""
    owners = []
    for owner in named if isinstance(named, list) else [named]:
        try:
            dg.AssetSpec("owned", owners=[owner])
            owners.append(owner)
        except (dg.DagsterError, CheckError):
            logger.warning(
                "model %r: owner %r is left out: it is neither an email address nor team:NAME",
                node["name"],
                owner,
            )
    return owners


def _tested(test: Node) -> str | None:
    read = set(test["depends_on"]["nodes"])
    attached: str | None = next(iter(read)) if len(read) == 1 else test.get("attached_node")
    return attached


def _meta(node: Node) -> Mapping[str, Any]:
    dagster: Mapping[str, Any] = (node["config"].get("meta") or node.get("meta") or {}).get(
        "dagster", {}
    )
    return dagster if isinstance(dagster, dict) else {}


def _is_ephemeral(node: Node) -> bool:
    return bool(node["resource_type"] == "model" and node["config"]["materialized"] == "ephemeral")


def _code(node: Node) -> str:
    return str(node.get("raw_code") or "")


def _group(node: Node) -> str:
    """The group of its meta, its dbt group, or its folder: staging, marts, seeds."""
    folder = node["fqn"][1] if len(node["fqn"]) > 2 else f"{node['resource_type']}s"
    group = _meta(node).get("group") or node["config"].get("group") or folder
    return re.sub(r"\W", "_", str(group), flags=re.ASCII)


def _columns(node: Node) -> dict[str, dg.TableSchema]:
    columns = [
        dg.TableColumn(name, column["data_type"] or "?", column["description"] or None)
        for name, column in node["columns"].items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns)} if columns else {}
