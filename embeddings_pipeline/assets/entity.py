"""The assets of an entity, all from one factory: texts, vectors, index, embeddings."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import metadata, partitions, pictures
from embeddings_pipeline.assets.dbt_nodes import key_of, owners
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.engine import Running
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import ledger
from embeddings_pipeline.store.ledger import Counts
from embeddings_pipeline.sync.encode import encode_entity
from embeddings_pipeline.sync.index import sync_index
from embeddings_pipeline.sync.publish import publish
from embeddings_pipeline.sync.retention import retain
from embeddings_pipeline.sync.status import coverage
from embeddings_pipeline.sync.texts import sync_texts

# runs that encode share the machine's processor or accelerator: dagster.yaml limits this pool
POOL = "encoder"
ASSETS = ("texts", "vectors", "index", "embeddings")
# the keys of a declaration that decide what is in each asset
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
    every image again; `include_backlog` looks also at other partitions than the run's."""

    allow_deletes: bool = False
    force: bool = False
    include_backlog: bool = False


class VectorsConfig(dg.Config):
    """`limit` is the most texts to encode and `max_cost_usd` the most to spend; `force` encodes
    also what is current; `include_backlog` goes on with what is pending in other partitions than
    the run's."""

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
    """The four assets of an entity whose declaration is wrong: what reads them finds them, and
    each run of them fails with what is wrong."""
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
        context: dg.AssetExecutionContext, config: TextsConfig, engine: dg.ResourceParam[Running]
    ) -> dg.MaterializeResult[None]:
        on, keys = engine.on(entity), partitions.keys_of(context)
        with engine.options(context.run_id, keys, **config.model_dump()) as options:
            result = sync_texts(
                engine.staging,
                engine.vectors,
                on,
                engine.encoders,
                options,
                keep=engine.keeps_cache,
            )
        shown = {"new": result.new, "rekeyed": result.rekeyed}
        return dg.MaterializeResult(metadata=metadata.of_counts(asdict(result.counts)) | shown)

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
        description=f"The texts as vectors of `{model}`; only what changed is encoded.",
        kinds={"huggingface", "postgres"},
        code_version=_version(entity, _VECTORS, {"model": model}),
        partitions_def=partitions.definition(entity),
        backfill_policy=partitions.backfill_policy(settings.embedding_partitions_per_run),
        pool=pool,
    )
    def vectors(
        context: dg.AssetExecutionContext, config: VectorsConfig, engine: dg.ResourceParam[Running]
    ) -> dg.MaterializeResult[None]:
        on, keys = engine.on(entity), partitions.keys_of(context)
        with engine.options(context.run_id, keys, **config.model_dump()) as options:
            result = encode_entity(
                engine.vectors, on, engine.encoders, options, keep=engine.keeps_cache
            )
        partitions.record(context, coverage(engine.vectors, on), result.keys)
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
        context: dg.AssetExecutionContext, engine: dg.ResourceParam[Running]
    ) -> dg.MaterializeResult[None]:
        results = sync_index(
            engine.vectors, engine.on(entity), run_id=context.run_id, report=engine.report
        )
        return dg.MaterializeResult(metadata=metadata.of_indexes(results))

    return index


def _embeddings(entity: Entity, owned_by: Sequence[str], settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key_prefix=entity.name,
        group_name=entity.name,
        owners=owned_by,
        deps=[dg.AssetKey([entity.name, "index"])],
        description=f"The view `{settings.pgvector_schema}.{entity.name}_embeddings`: what"
        " searches and marts read. It shows a new set once that is complete.",
        kinds={"postgres", "view"},
        code_version=_version(entity, _EMBEDDINGS),
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=entity.freshness.fail, warn_window=entity.freshness.warn
        ),
    )
    def embeddings(
        context: dg.AssetExecutionContext, engine: dg.ResourceParam[Running]
    ) -> dg.MaterializeResult[None]:
        on = engine.on(entity)
        result = publish(engine.vectors, on)
        retain(engine.vectors, on, engine.encoders, engine.settings)
        with engine.vectors.connection() as connection:
            counts = ledger.read(connection, on, context.run_id) or asdict(Counts())
        shown = {"published": result.summary, "flipped": result.flipped}
        shown |= pictures.of_changes(engine.vectors, on, counts)
        return dg.MaterializeResult(metadata=metadata.of_counts(counts) | shown)

    return embeddings


def _version(entity: Entity, keys: set[str], given: Mapping[str, str] | None = None) -> str:
    """A digest of what decides an asset: where it moved, Dagster shows the asset as stale."""
    decides = entity.model_dump(mode="json", include=keys) | dict(given or {})
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
