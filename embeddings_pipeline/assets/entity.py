"""The asset factory of an entity: texts, vectors, index, embeddings."""

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from embeddings_pipeline.assets import partitions
from embeddings_pipeline.assets.options import ASSETS, DefsOptions
from embeddings_pipeline.entities.entity import KEYS_OF_TEXTS, SHOWN, Entity
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.resources.run_context import RunContext

if TYPE_CHECKING:
    # the pipeline is imported when a step runs: it takes longer than Dagster's own definitions
    from embeddings_pipeline.assets.metadata import OfPartitions

# the keys of a declaration that decide the content of each asset
_DECIDES = {
    # lexemes stand beside the texts
    "texts": {"id", "language", *KEYS_OF_TEXTS},
    "vectors": {"model", "prompts", "dimension", "storage"},
    "index": {"index", "metric", "filters"},
    # the function beside the view orders by the metric
    "embeddings": {"id", "filters", "metric", "publish", "retrieval", *SHOWN},
}
_KINDS = {
    "texts": {"python", "postgres"},
    "vectors": {"huggingface", "postgres"},
    "index": {"postgres"},
    "embeddings": {"postgres", "view"},
}
_PARTITIONED = {"texts", "vectors"}


class TextsConfig(dg.Config):
    """`allow_deletes` lets a pass delete more than max_delete_share of the rows; `force` reads
    every image again; `include_backlog` also takes partitions other than the run's."""

    allow_deletes: bool = False
    force: bool = False
    include_backlog: bool = False


class VectorsConfig(dg.Config):
    """`limit` is the most texts to encode and `max_cost_usd` the most US dollars to spend; `force`
    encodes current texts again; `include_backlog` goes on with pending rows of other partitions."""

    limit: int | None = None
    max_cost_usd: float | None = None
    force: bool = False
    include_backlog: bool = False


def entity_assets(
    entity: Entity, model: dg.AssetSpec, options: DefsOptions
) -> list[dg.AssetsDefinition]:
    """The four assets of an entity, downstream of its staging model."""
    specs = {asset: _spec(entity, asset, model, options) for asset in ASSETS}
    makers = {
        "texts": _make_texts,
        "vectors": _make_vectors,
        "index": _make_index,
        "embeddings": _make_embeddings,
    }
    return [make(entity, specs[asset], options) for asset, make in makers.items()]


def broken_assets(
    name: str, error: Exception, model: dg.AssetKey, options: DefsOptions
) -> list[dg.AssetsDefinition]:
    """The four assets of an entity whose declaration is wrong. Assets downstream still find them,
    and each run of them fails with the error."""
    upstream = [model, *options.keys(name)]
    return [_broken(name, *pair, error, options) for pair in zip(ASSETS, upstream, strict=False)]


def _broken(
    name: str, asset: str, upstream: dg.AssetKey, error: Exception, options: DefsOptions
) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        options.key(name, asset),
        deps=[upstream],
        group_name=options.group or name,
        description=str(error),
    )

    @dg.multi_asset(name=options.op(name, asset), specs=[spec])
    def broken() -> None:
        raise dg.Failure(str(error), allow_retries=False)

    return broken


def _spec(entity: Entity, asset: str, model: dg.AssetSpec, options: DefsOptions) -> dg.AssetSpec:
    upstream = [model.key, *options.keys(entity.name)][ASSETS.index(asset)]
    return dg.AssetSpec(
        options.key(entity.name, asset),
        deps=[upstream],
        description=_description(entity, asset, model.key, options),
        group_name=options.group or entity.name,
        owners=model.owners,
        kinds=_KINDS[asset],
        code_version=_version(entity, asset, options),
        # checks on the index report recall, which does not age
        freshness_policy=None if asset == "index" else _freshness(entity),
        automation_condition=_automation(entity, asset),
    )


def _description(entity: Entity, asset: str, model: dg.AssetKey, options: DefsOptions) -> str:
    if asset == "texts":
        return f"A text for each row of `{entity.table}` (or each chunk), with its hash."
    if asset == "vectors":
        return (
            f"Vectors of the texts by `{_model(entity, options)}`; only changed texts are encoded."
        )
    if asset == "index":
        return "The vector index of each set, its recall measured against exact search."
    schema = options.settings.get("pgvector_schema")
    view = f"{schema}.{entity.name}_embeddings" if schema else f"{entity.name}_embeddings"
    return (
        f"The view `{view}`, which searches and marts read. It shows a new set once the set is"
        " complete."
    )


def _freshness(entity: Entity) -> dg.FreshnessPolicy:
    return dg.FreshnessPolicy.time_window(
        fail_window=entity.freshness.fail, warn_window=entity.freshness.warn
    )


def _automation(entity: Entity, asset: str) -> dg.AutomationCondition[Any] | None:
    """Follows the staging model: all partitions, or the days of a scheduled run."""
    if entity.automation is None:
        return None
    eager = dg.AutomationCondition.eager()
    if asset not in _PARTITIONED:
        # days before the declared ones of a run may never have been materialised
        return eager.without(~dg.AutomationCondition.any_deps_missing())
    if not isinstance(entity.partitions, DayPartitions):
        return eager
    return eager.replace(
        "in_latest_time_window",
        dg.AutomationCondition.in_latest_time_window(
            timedelta(days=entity.partitions.lookback_days + 1)
        ),
    )


def _model(entity: Entity, options: DefsOptions) -> str:
    return entity.model or options.settings.get("embedding_model") or "EMBEDDING_MODEL"


def _version(entity: Entity, asset: str, options: DefsOptions) -> str:
    """A digest of the keys that decide an asset, which is stale for Dagster when it changes."""
    decides = entity.model_dump(mode="json", include=_DECIDES[asset])
    if asset == "vectors":
        decides["model"] = _model(entity, options)
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _arguments(entity: Entity, spec: dg.AssetSpec, options: DefsOptions) -> dict[str, Any]:
    """The arguments of `multi_asset`: unlike `asset`, it lets the op have a name of its own."""
    asset = spec.key.path[-1]
    arguments: dict[str, Any] = {
        "name": options.op(entity.name, asset),
        "specs": [spec],
        "required_resource_keys": {options.name},
        "op_tags": options.op_tags_of(entity),
    }
    if asset in _PARTITIONED:
        arguments["partitions_def"] = partitions.definition(entity)
        arguments["backfill_policy"] = partitions.backfill_policy(options.partitions_per_run)
    return arguments


def _make_texts(entity: Entity, spec: dg.AssetSpec, options: DefsOptions) -> dg.AssetsDefinition:
    @dg.multi_asset(**_arguments(entity, spec, options))
    def texts(context: dg.AssetExecutionContext, config: TextsConfig) -> dg.MaterializeResult[None]:
        from embeddings_pipeline.assets import metadata

        running = RunContext.of(context, options.name)
        keys = partitions.keys_of(context, entity)
        built = running.entity(entity, context.run)
        with running.options(context.run_id, keys, **config.model_dump()) as run_options:
            result = running.pipeline.sync_texts(built, run_options)
        return _result(
            context, metadata.of_texts(running.pipeline, built, result, context.run_id, keys)
        )

    return texts


def _make_vectors(entity: Entity, spec: dg.AssetSpec, options: DefsOptions) -> dg.AssetsDefinition:
    @dg.multi_asset(**_arguments(entity, spec, options), pool=options.pool_of(entity))
    def vectors(
        context: dg.AssetExecutionContext, config: VectorsConfig
    ) -> dg.MaterializeResult[None]:
        from embeddings_pipeline.assets import metadata

        running = RunContext.of(context, options.name)
        keys = partitions.keys_of(context, entity)
        built = running.entity(entity, context.run)
        with running.options(context.run_id, keys, **config.model_dump()) as run_options:
            result = running.pipeline.sync_vectors(built, run_options)
        return _result(
            context, metadata.of_vectors(running.pipeline, built, result, context.run_id, keys)
        )

    return vectors


def _make_index(entity: Entity, spec: dg.AssetSpec, options: DefsOptions) -> dg.AssetsDefinition:
    @dg.multi_asset(**_arguments(entity, spec, options))
    def index(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from embeddings_pipeline.assets import metadata

        running = RunContext.of(context, options.name)
        built = running.entity(entity, context.run)
        results = running.pipeline.sync_index(built, context.run_id, report=running.report)
        return dg.MaterializeResult(metadata=metadata.of_indexes(results))

    return index


def _make_embeddings(
    entity: Entity, spec: dg.AssetSpec, options: DefsOptions
) -> dg.AssetsDefinition:
    @dg.multi_asset(**_arguments(entity, spec, options))
    def embeddings(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from embeddings_pipeline.assets import metadata

        running = RunContext.of(context, options.name)
        built = running.entity(entity, context.run)
        result = running.pipeline.publish(built, run_id=context.run_id)
        facts = metadata.of_publication(running.pipeline, built, result, context.run_id)
        context.instance.add_run_tags(context.run_id, metadata.run_tags(built, facts))
        context.log_event(
            dg.AssetMaterialization(
                options.coverage_key, metadata=metadata.of_coverage_view(running.pipeline)
            )
        )
        return dg.MaterializeResult(metadata=facts)

    return embeddings


def _result(context: dg.AssetExecutionContext, facts: "OfPartitions") -> dg.MaterializeResult[None]:
    """Give each partition its own counts, and report other partitions that the run touched."""
    for key, counts in facts.by_partition.items():
        context.add_asset_metadata(counts, partition_key=key)
    for key, counts in facts.beyond.items():
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key, metadata=facts.shared | counts, partition=key
            )
        )
    return dg.MaterializeResult(metadata=facts.shared)
