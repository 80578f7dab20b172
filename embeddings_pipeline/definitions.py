"""Dagster's entry point: assets, checks, jobs and schedules of the dbt project."""

import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import automation, staging
from embeddings_pipeline.assets.checks import entity_checks
from embeddings_pipeline.assets.entity import POOL, broken_assets, entity_assets
from embeddings_pipeline.assets.exporting import export_job
from embeddings_pipeline.assets.planning import plan_job
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.manifest import entities_of, load_manifest
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.resources.run_context import PipelineResource, RunContext
from embeddings_pipeline.settings import Settings

logger = logging.getLogger(__name__)


def definitions(
    settings: Settings, pipeline: PipelineResource | RunContext, pool: str | None = POOL
) -> dg.Definitions:
    """The assets, checks, jobs and schedules of the dbt project; starts no database.

    An entity with a wrong declaration has assets, a job and a schedule that fail with the error.
    Raises ConfigurationError for wrong settings.
    """
    manifest = load_manifest(prepared_manifest(settings))
    declared = entities_of(manifest)
    before, after = staging.dbt_assets(manifest, declared.models)
    status = (
        dg.DefaultScheduleStatus.RUNNING
        if settings.embedding_enabled
        else dg.DefaultScheduleStatus.STOPPED
    )
    entities = [
        *(
            _entity_definitions(entity, manifest, declared.models[name], settings, pool, status)
            for name, entity in declared.entities.items()
        ),
        *(
            _broken_definitions(name, error, declared.models[name], status)
            for name, error in declared.broken.items()
        ),
    ]
    dbt_jobs = [
        automation.dbt_job(name, assets)
        for name, assets in (("staging", before), ("marts", after))
        if assets
    ]
    return dg.Definitions.merge(
        *entities,
        dg.Definitions(
            assets=[
                *(assets for assets in (before, after) if assets),
                staging.coverage_view(declared.models),
            ],
            jobs=[*dbt_jobs, plan_job(declared), export_job],
            schedules=[automation.marts_schedule(dbt_jobs[-1], status)] if after else [],
            resources={"embeddings": pipeline},
            # also for assets that are started by hand: a process for each step would load the
            # model each time
            executor=dg.in_process_executor,
        ),
    )


def _entity_definitions(
    entity: Entity,
    manifest: Mapping[str, Any],
    node: Mapping[str, Any],
    settings: Settings,
    pool: str | None,
    status: dg.DefaultScheduleStatus,
) -> dg.Definitions:
    try:
        job = automation.entity_job(entity, node)
        return dg.Definitions(
            assets=entity_assets(entity, manifest, node, settings, pool),
            asset_checks=[entity_checks(entity)],
            jobs=[job],
            schedules=[automation.entity_schedule(entity, job, status)],
        )
    except Exception as error:
        # Dagster may refuse a name or a value that the declaration allows
        return _broken_definitions(entity.name, error, node, status)


def _broken_definitions(
    name: str, error: Exception, node: Mapping[str, Any], status: dg.DefaultScheduleStatus
) -> dg.Definitions:
    logger.warning("entity %r is left out: %s", name, error)
    if not re.fullmatch(r"\w+", name, re.ASCII):
        # not a valid name of a group or a job
        return dg.Definitions()
    job = automation.broken_job(name, error)
    return dg.Definitions(
        assets=broken_assets(name, error, node),
        jobs=[job],
        schedules=[automation.broken_schedule(name, job, status)],
    )


with warnings.catch_warnings():
    # backfill policies of assets are in beta; the version is pinned
    warnings.simplefilter("ignore", dg.BetaWarning)
    defs = definitions(Settings.load(), PipelineResource())
