"""The asset factory of an entity: texts, vectors, index, embeddings."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import metadata, partitions
from embeddings_pipeline.assets.dbt_nodes import key_of, owners
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.run_context import RunContext
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.run_ledger import Counts

# runs that encode share the machine's processor or accelerator: dagster.yaml limits this pool
POOL = "encoder"
ASSETS = ("texts", "vectors", "index", "embeddings")
# the keys of a declaration that decide the content of each asset
_TEXTS = {
    "id",
    "include",
    "exclude",
    "template",
    "weights",
    "chunk",
    "image",
    "filters",
    "deleted",
    "where",
    "changed_at",
    "partitions",
}
_VECTORS = {"model", "dimension", "storage"}
_INDEX = {"index", "metric"}
_EMBEDDINGS = {"id", "filters", "publish"}


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
    entity: Entity,
    manifest: Mapping[str, Any],
    node: Mapping[str, Any],
    settings: Settings,
    pool: str | None = POOL,
) -> list[dg.AssetsDefinition]:
    """The four assets of an entity whose staging model is this node of the manifest."""
    owned_by = owners(manifest, node)
    return [
        _texts(entity, owned_by, node, settings),
        _vectors(entity, owned_by, settings, pool),
        _index(entity, owned_by),
        _embeddings(entity, owned_by, settings),
    ]


def broken_assets(
    name: str, error: Exception, node: Mapping[str, Any]
) -> list[dg.AssetsDefinition]:
    """The four assets of an entity whose declaration is wrong. Assets downstream still find them,
    and each run of them fails with the error."""
    upstream = [key_of(node), *(dg.AssetKey([name, asset]) for asset in ASSETS)]
    return [_broken(name, *pair, error) for pair in zip(ASSETS, upstream, strict=False)]


def _broken(name: str, asset: str, upstream: dg.AssetKey, error: Exception) -> dg.AssetsDefinition:
    @dg.asset(name=asset, key_prefix=name, group_name=name, deps=[upstream], description=str(error))
    def broken() -> None:
        raise dg.Failure(str(error), allow_retries=False)

    return broken


def _texts(
    entity: Entity, owned_by: Sequence[str], node: Mapping[str, Any], settings: Settings
) -> dg.AssetsDefinition:
    @dg.asset(
        key_prefix=entity.name,
        group_name=entity.name,
        owners=owned_by,
        deps=[key_of(node)],
        description=f"A text for each row of `{node['name']}` (or each chunk), with its hash.",
        kinds={"python", "postgres"},
        code_version=_version(entity, _TEXTS),
        partitions_def=partitions.definition(entity),
        backfill_policy=partitions.backfill_policy(settings.embedding_partitions_per_run),
    )
    def texts(
        context: dg.AssetExecutionContext,
        config: TextsConfig,
        embeddings: dg.ResourceParam[RunContext],
    ) -> dg.MaterializeResult[None]:
        keys = partitions.keys_of(context)
        with embeddings.options(context.run_id, keys, **config.model_dump()) as options:
            result = embeddings.pipeline.sync_texts(entity, options)
        return dg.MaterializeResult(metadata=metadata.of_texts(result))

    return texts


def _vectors(
    entity: Entity, owned_by: Sequence[str], settings: Settings, pool: str | None
) -> dg.AssetsDefinition:
    model = entity.model or settings.embedding_model

    @dg.asset(
        key_prefix=entity.name,
        group_name=entity.name,
        owners=owned_by,
        deps=[dg.AssetKey([entity.name, "texts"])],
        description=f"Vectors of the texts by `{model}`; only changed texts are encoded.",
        kinds={"huggingface", "postgres"},
        code_version=_version(entity, _VECTORS, {"model": model}),
        partitions_def=partitions.definition(entity),
        backfill_policy=partitions.backfill_policy(settings.embedding_partitions_per_run),
        pool=pool,
    )
    def vectors(
        context: dg.AssetExecutionContext,
        config: VectorsConfig,
        embeddings: dg.ResourceParam[RunContext],
    ) -> dg.MaterializeResult[None]:
        keys = partitions.keys_of(context)
        with embeddings.options(context.run_id, keys, **config.model_dump()) as options:
            result = embeddings.pipeline.sync_vectors(entity, options)
        partitions.record(context, embeddings.pipeline.coverage(entity), result.keys)
        return dg.MaterializeResult(metadata=metadata.of_sets(result))

    return vectors


def _index(entity: Entity, owned_by: Sequence[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key_prefix=entity.name,
        group_name=entity.name,
        owners=owned_by,
        deps=[dg.AssetKey([entity.name, "vectors"])],
        description="The vector index of each set, its recall measured against exact search.",
        kinds={"postgres"},
        code_version=_version(entity, _INDEX),
    )
    def index(
        context: dg.AssetExecutionContext, embeddings: dg.ResourceParam[RunContext]
    ) -> dg.MaterializeResult[None]:
        pipeline = embeddings.pipeline
        results = pipeline.sync_index(entity, context.run_id, report=embeddings.report)
        return dg.MaterializeResult(metadata=metadata.of_indexes(results))

    return index


def _embeddings(entity: Entity, owned_by: Sequence[str], settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        name="embeddings",
        key_prefix=entity.name,
        group_name=entity.name,
        owners=owned_by,
        deps=[dg.AssetKey([entity.name, "index"])],
        description=f"The view `{settings.pgvector_schema}.{entity.name}_embeddings`, which"
        " searches and marts read. It shows a new set once the set is complete.",
        kinds={"postgres", "view"},
        code_version=_version(entity, _EMBEDDINGS),
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=entity.freshness.fail, warn_window=entity.freshness.warn
        ),
    )
    def published(
        context: dg.AssetExecutionContext, embeddings: dg.ResourceParam[RunContext]
    ) -> dg.MaterializeResult[None]:
        pipeline = embeddings.pipeline
        result = pipeline.publish(entity)
        counts = pipeline.counts_of(entity, context.run_id) or asdict(Counts())
        facts = metadata.of_publication(pipeline, entity, result, counts)
        return dg.MaterializeResult(metadata=facts)

    return published


def _version(entity: Entity, keys: set[str], given: Mapping[str, str] | None = None) -> str:
    """A digest of the keys that decide an asset, which is stale for Dagster when it changes."""
    decides = entity.model_dump(mode="json", include=keys) | dict(given or {})
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
