"""Reports a run outside of Dagster to an instance, with the events that the assets would give."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import metadata, partitions
from embeddings_pipeline.assets.checks import evaluation
from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.assets.upstream import Node, key_of
from embeddings_pipeline.dbt_command import Build
from embeddings_pipeline.pipeline import EntityRun, Pipeline

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def report(
    instance: dg.DagsterInstance, pipeline: Pipeline, run: EntityRun, options: DefsOptions
) -> None:
    """Report the materialisations of the stages that a run reached, and its check results."""
    for event in _events(pipeline, run, options):
        instance.report_runless_asset_event(event)


def report_build(instance: dg.DagsterInstance, build: Build) -> None:
    """Report the models and seeds that a dbt command built, and the results of their tests, with
    the keys that dagster-dbt gives them by default."""
    for unique_id, result in build.results.items():
        node = build.manifest["nodes"].get(unique_id)
        if node is None:
            continue
        if node["resource_type"] == "test":
            tested = build.manifest["nodes"].get(build.tested(unique_id))
            if tested and result["status"] != "skipped":
                instance.report_runless_asset_event(_test_result(node, tested, result))
        elif result["status"] == "success":
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key_of(node), metadata={"unique_id": unique_id, "status": result["status"]}
                )
            )


def _test_result(test: Node, tested: Node, result: Mapping[str, Any]) -> dg.AssetCheckEvaluation:
    severity = (test["config"].get("severity") or "error").lower()
    return dg.AssetCheckEvaluation(
        asset_key=key_of(tested),
        check_name=test["name"],
        passed=result["status"] == "pass",
        severity=dg.AssetCheckSeverity[severity.upper()],
        blocking=severity == "error",
        metadata={"unique_id": test["unique_id"], "status": result["status"]},
    )


def _events(pipeline: Pipeline, run: EntityRun, options: DefsOptions) -> Iterator[Event]:
    entity = run.entity
    keys = list(run.options.keys or partitions.covered_by_schedule(entity))
    if run.texts:
        facts = metadata.of_texts(pipeline, entity, run.texts, run.run_id, keys)
        yield from _of_partitions(options.key(entity.name, "texts"), facts)
    if run.vectors:
        facts = metadata.of_vectors(pipeline, entity, run.vectors, run.run_id, keys)
        yield from _of_partitions(options.key(entity.name, "vectors"), facts)
    if run.published:
        yield dg.AssetMaterialization(
            options.key(entity.name, "index"), metadata=metadata.of_indexes(run.indexes)
        )
        yield dg.AssetMaterialization(
            options.coverage_key, metadata=metadata.of_coverage_view(pipeline)
        )
        yield dg.AssetMaterialization(
            options.key(entity.name, "embeddings"),
            metadata=metadata.of_publication(pipeline, entity, run.published, run.run_id),
        )
    for name, result in run.checks.items():
        yield evaluation(entity.name, name, result, options)


def _of_partitions(
    key: dg.AssetKey, facts: metadata.OfPartitions
) -> Iterator[dg.AssetMaterialization]:
    for partition, counts in {**facts.by_partition, **facts.beyond}.items():
        yield dg.AssetMaterialization(key, metadata=facts.shared | counts, partition=partition)
