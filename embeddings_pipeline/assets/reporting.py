"""Reports a run outside of Dagster to an instance, with the events that the assets would give."""

from collections.abc import Iterator

import dagster as dg

from embeddings_pipeline.assets import metadata, partitions
from embeddings_pipeline.assets.checks import evaluation
from embeddings_pipeline.pipeline import EntityRun, Pipeline


def report(instance: dg.DagsterInstance, pipeline: Pipeline, run: EntityRun) -> None:
    """Report the materialisations of the stages that a run reached, and its check results."""
    for event in _events(pipeline, run):
        instance.report_runless_asset_event(event)


def _events(
    pipeline: Pipeline, run: EntityRun
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    entity = run.entity
    keys = list(run.options.keys or partitions.covered_by_schedule(entity))
    if run.texts:
        facts = metadata.of_texts(run.texts)
        for key in keys:
            yield _materialization(entity.name, "texts", facts, key)
    if run.vectors:
        facts = metadata.of_sets(run.vectors)
        of_run, beyond = partitions.facts(pipeline.coverage(entity), keys, run.vectors.keys)
        for key in keys:
            # a partition without rows is done, too
            yield _materialization(entity.name, "vectors", facts | of_run.get(key, {}), key)
        for key, found in beyond.items():
            yield _materialization(entity.name, "vectors", found, key)
    if run.published:
        yield _materialization(entity.name, "index", metadata.of_indexes(run.indexes))
        facts = metadata.of_publication(pipeline, entity, run.published, run.counts)
        yield _materialization(entity.name, "embeddings", facts)
    for name, result in run.checks.items():
        yield evaluation(entity.name, name, result)


def _materialization(
    entity: str, asset: str, facts: metadata.Metadata, partition: str | None = None
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        dg.AssetKey([entity, asset]), metadata=facts, partition=partition
    )
