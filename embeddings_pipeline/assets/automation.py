"""Jobs and their schedules: one for each entity, one for the models that read the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from embeddings_pipeline.assets import partitions
from embeddings_pipeline.assets.dbt_nodes import key_of
from embeddings_pipeline.entities.entity import Entity

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as AssetJob,
    )

_ENTITY_CRON = Entity.model_fields["schedule"].default
# after the entities
_MARTS_CRON = "0 4 * * *"


def job_name(entity: str) -> str:
    """The name of an entity's job."""
    return f"{entity}_embeddings"


def broken_job(name: str, error: Exception) -> AssetJob:
    """The job of an entity whose declaration is wrong; it fails with the error."""
    return dg.define_asset_job(
        job_name(name),
        selection=dg.AssetSelection.key_prefixes(name),
        executor_def=dg.in_process_executor,
        description=str(error),
    )


def broken_schedule(
    name: str, job: AssetJob, status: dg.DefaultScheduleStatus
) -> dg.ScheduleDefinition:
    """Runs the job daily, so that alerts on failed runs report the declaration."""
    return dg.ScheduleDefinition(
        name=f"{name}_schedule", job=job, cron_schedule=_ENTITY_CRON, default_status=status
    )


def entity_job(entity: Entity, node: Mapping[str, Any]) -> AssetJob:
    """Staging model, texts, vectors, index, published view and all their checks, in one process."""
    return dg.define_asset_job(
        job_name(entity.name),
        selection=dg.AssetSelection.assets(key_of(node))
        | dg.AssetSelection.key_prefixes(entity.name),
        executor_def=dg.in_process_executor,
        description=f"Builds `{node['name']}` and brings the vectors of {entity.name} up to date.",
    )


def entity_schedule(
    entity: Entity, job: AssetJob, status: dg.DefaultScheduleStatus
) -> dg.ScheduleDefinition:
    """Runs the job over the partitions of the schedule, then over pending rows of the others."""

    @dg.schedule(
        name=f"{entity.name}_schedule",
        job=job,
        cron_schedule=entity.schedule,
        default_status=status,
        description=f"Brings the vectors of {entity.name} up to date.",
    )
    def run() -> dg.RunRequest:
        return dg.RunRequest(
            tags=partitions.tags(partitions.covered_by_schedule(entity)),
            run_config=entity_config(entity.name, limit=entity.limit, include_backlog=True),
        )

    return run


def entity_config(
    entity: str,
    *,
    allow_deletes: bool = False,
    limit: int | None = None,
    max_cost_usd: float | None = None,
    force: bool = False,
    include_backlog: bool = False,
) -> dict[str, Any]:
    """The run configuration of an entity's job."""
    limits = {"limit": limit, "max_cost_usd": max_cost_usd}
    limits = {name: value for name, value in limits.items() if value is not None}
    shared = {"force": force, "include_backlog": include_backlog}
    return {
        "ops": {
            f"{entity}__texts": {"config": {"allow_deletes": allow_deletes} | shared},
            f"{entity}__vectors": {"config": shared | limits},
        }
    }


def dbt_job(name: str, assets: dg.AssetsDefinition) -> AssetJob:
    """The job that builds these assets with one dbt command."""
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(assets),
        executor_def=dg.in_process_executor,
        description="One dbt build of these models, with their tests.",
    )


def marts_schedule(job: AssetJob, status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Builds the models that read the vectors, after the entities' schedules."""
    return dg.ScheduleDefinition(
        name="marts_schedule", job=job, cron_schedule=_MARTS_CRON, default_status=status
    )
