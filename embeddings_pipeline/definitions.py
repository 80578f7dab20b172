"""Dagster's entry point: everything that the dbt project declares, wired together."""

import warnings

import dagster as dg

from embeddings_pipeline.assets import automation, staging
from embeddings_pipeline.assets.checks import entity_checks
from embeddings_pipeline.assets.dbt_nodes import models_of_entities
from embeddings_pipeline.assets.entity import POOL, entity_assets
from embeddings_pipeline.assets.exporting import export_job
from embeddings_pipeline.assets.planning import plan_job
from embeddings_pipeline.entities.manifest import entities_of, load_manifest
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.resources.engine import EngineResource, Running
from embeddings_pipeline.settings import Settings


def definitions(
    settings: Settings, engine: EngineResource | Running, pool: str | None = POOL
) -> dg.Definitions:
    """The assets, checks, jobs and schedules of the dbt project; starts no database.

    Raises ConfigurationError for settings or a declaration that is wrong.
    """
    manifest = load_manifest(prepared_manifest(settings))
    entities = entities_of(manifest)
    nodes = models_of_entities(manifest)
    before, after = staging.dbt_assets(manifest, entities)
    status = (
        dg.DefaultScheduleStatus.RUNNING
        if settings.embedding_enabled
        else dg.DefaultScheduleStatus.STOPPED
    )
    jobs = {name: automation.entity_job(e, nodes[name]) for name, e in entities.items()}
    schedules = [automation.entity_schedule(e, jobs[n], status) for n, e in entities.items()]
    dbt_jobs = [
        automation.dbt_job(name, assets)
        for name, assets in (("staging", before), ("marts", after))
        if assets
    ]
    if after:
        schedules.append(automation.marts_schedule(dbt_jobs[-1], status))
    return dg.Definitions(
        assets=[
            *(assets for assets in (before, after) if assets),
            *(
                a
                for n, e in entities.items()
                for a in entity_assets(e, manifest, nodes[n], settings, pool)
            ),
            staging.coverage_view(entities),
        ],
        asset_checks=[entity_checks(entity) for entity in entities.values()],
        jobs=[*jobs.values(), *dbt_jobs, plan_job(entities.values()), export_job],
        schedules=schedules,
        resources={"engine": engine},
        # also for what is started by hand: a process for each step would load the model each time
        executor=dg.in_process_executor,
    )


with warnings.catch_warnings():
    # backfill policies of assets are in beta; the version is pinned
    warnings.simplefilter("ignore", dg.BetaWarning)
    defs = definitions(Settings.load(), EngineResource())
