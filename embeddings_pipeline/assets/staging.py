"""dbt's models and seeds: those from which vectors are made, and those that read the vectors."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import dagster as dg

from embeddings_pipeline.assets.dbt_nodes import asset_nodes, asset_spec, check_specs, descendants
from embeddings_pipeline.resources import dbt
from embeddings_pipeline.resources.run_context import RunContext

# no asset makes this view: each run keeps it up to date
COVERAGE = dg.AssetKey(["entity_coverage"])


def published(entity: str) -> dg.AssetKey:
    """The asset of an entity's published view, which a dbt source names in its meta."""
    return dg.AssetKey([entity, "embeddings"])


def coverage_view(entities: Collection[str]) -> dg.AssetSpec:
    """The view that counts the rows and vectors of every entity."""
    return dg.AssetSpec(
        COVERAGE,
        deps=[published(name) for name in entities],
        description="One row for each entity, with how many of its rows have vectors.",
        group_name="marts",
        kinds={"postgres", "view"},
    )


def dbt_assets(
    manifest: Mapping[str, Any], entities: Collection[str]
) -> tuple[dg.AssetsDefinition | None, dg.AssetsDefinition | None]:
    """The models before the vectors, and the models that read them; None where there are none."""
    after = descendants(manifest, [COVERAGE, *(published(name) for name in entities)])
    before = set(asset_nodes(manifest)) - after
    return _assets("dbt_staging", manifest, before), _assets("dbt_marts", manifest, after)


def _assets(
    name: str, manifest: Mapping[str, Any], unique_ids: set[str]
) -> dg.AssetsDefinition | None:
    if not unique_ids:
        return None
    specs = {unique_id: asset_spec(manifest, unique_id) for unique_id in sorted(unique_ids)}
    checks = {spec.key: spec for spec in check_specs(manifest, unique_ids)}
    tests = {key: manifest["nodes"][spec.metadata["unique_id"]] for key, spec in checks.items()}
    models = {spec.key: manifest["nodes"][unique_id] for unique_id, spec in specs.items()}

    @dg.multi_asset(
        name=name,
        specs=list(specs.values()),
        check_specs=list(checks.values()),
        can_subset=True,
    )
    def build(
        context: dg.AssetExecutionContext, embeddings: dg.ResourceParam[RunContext]
    ) -> Iterator[dbt.DbtEvent]:
        chosen = [models[key] for key in context.selected_asset_keys]
        chosen += [tests[key] for key in context.selected_asset_check_keys]
        selected = " ".join(sorted(".".join(node["fqn"]) for node in chosen))
        yield from dbt.build(context, embeddings.pipeline, selected)

    return build
