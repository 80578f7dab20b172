"""The job of each entity and what starts it; and the sensors that notice failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from embeddings_pipeline.assets import partitions, placement
from embeddings_pipeline.assets.options import DefsOptions
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.resources.orphaned_runs import close_orphaned_runs, is_of_location

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as AssetJob,
    )

ENTITY_CRON = Entity.model_fields["schedule"].default
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def entity_job(entity: Entity, options: DefsOptions, description: str) -> AssetJob:
    """Staging model, texts, vectors, index, published view and all their checks.

    The staging model is in the job where the code location builds it.
    """
    first, *_ = keys = options.keys(entity.name)
    model = dg.AssetSelection.assets(first).upstream(depth=1, include_self=False)
    return dg.define_asset_job(
        options.job(entity.name),
        selection=dg.AssetSelection.assets(*keys) | model.materializable(),
        executor_def=options.executor_of(entity),
        tags=placement.run_tags(entity.run),
        description=description,
    )


def broken_job(name: str, error: Exception, options: DefsOptions) -> AssetJob:
    """The job of an entity whose declaration is wrong; it fails with the error."""
    return dg.define_asset_job(
        options.job(name),
        selection=dg.AssetSelection.assets(*options.keys(name)),
        executor_def=options.executor,
        description=str(error),
    )


def entity_schedule(entity: Entity, job: AssetJob, options: DefsOptions) -> dg.ScheduleDefinition:
    """Runs the job over the partitions of the schedule, then over pending rows of the others.
    Skips while a run of the entity is queued or in progress."""

    @dg.schedule(
        name=f"{options.job(entity.name)}_schedule",
        job=job,
        cron_schedule=entity.schedule,
        default_status=options.status,
        description=f"Brings the vectors of {entity.name} up to date.",
    )
    def run(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        for record in context.instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
            if entities_of_run(record, [entity.name], options):
                return dg.SkipReason(
                    f"run {record.run_id} of {entity.name} is {record.status.value.lower()}"
                )
        return dg.RunRequest(
            tags=partitions.tags(partitions.covered_by_schedule(entity)),
            run_config=entity_config(
                entity.name, options, limit=entity.limit, include_backlog=True
            ),
        )

    return run


def broken_schedule(name: str, job: AssetJob, options: DefsOptions) -> dg.ScheduleDefinition:
    """Runs the job daily, so that alerts on failed runs report the declaration."""
    return dg.ScheduleDefinition(
        name=f"{options.job(name)}_schedule",
        job=job,
        cron_schedule=ENTITY_CRON,
        default_status=options.status,
    )


def entity_config(
    entity: str,
    options: DefsOptions,
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
            options.op(entity, "texts"): {"config": {"allow_deletes": allow_deletes} | shared},
            options.op(entity, "vectors"): {"config": shared | limits},
        }
    }


def automation_sensor(
    entities: Sequence[str], options: DefsOptions
) -> dg.AutomationConditionSensorDefinition:
    """Starts runs of the entities that declare `automation`, after their staging models."""
    keys = [key for name in entities for key in options.keys(name)]
    return dg.AutomationConditionSensorDefinition(
        f"{options.name}_automation",
        target=dg.AssetSelection.assets(*keys),
        default_status=_sensor_status(options),
    )


def orphaned_runs_sensor(entities: Sequence[str], options: DefsOptions) -> dg.SensorDefinition:
    """Marks runs as failed whose process ended with the code location: Dagster's default launcher
    does not, and they would keep their places in the pool. Run retries start them again.

    A tick is evaluated by the server of the code location, beside the processes of its runs.
    """

    @dg.sensor(
        name=f"{options.name}_orphaned_runs",
        minimum_interval_seconds=60,
        default_status=_sensor_status(options),
        description="Marks runs as failed that were killed together with the code location.",
    )
    def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        origin = context.code_location_origin
        location = origin.location_name if origin else None
        closed = close_orphaned_runs(
            context.instance,
            lambda run: (
                is_of_location(run, location) and bool(entities_of_run(run, entities, options))
            ),
        )
        return dg.SkipReason(f"marked as failed: {', '.join(closed) or 'none'}")

    return orphaned_runs


@dataclass(frozen=True)
class RunFailure:
    """A run of some entities that failed, or whose checks of severity error failed. `checks` has
    the description of each failed check by its name, as `note/vectors: coverage`."""

    entities: Sequence[str]
    run_id: str
    job: str
    message: str
    checks: Mapping[str, str]


OnFailure = Callable[[RunFailure], object]


def failure_sensors(
    entities: Sequence[str], on_failure: OnFailure, options: DefsOptions
) -> list[dg.SensorDefinition]:
    """Call a function of the team's for each failed run of an entity, and for each other run in
    which a check of severity error failed. It covers jobs, backfills and runs by hand."""

    def call(context: dg.RunStatusSensorContext, *, failed: bool) -> dg.SkipReason | None:
        run = context.dagster_run
        touched = entities_of_run(run, entities, options)
        checks = _failed_checks(context.instance, run.run_id)
        if not touched or not (failed or checks):
            return dg.SkipReason(f"run {run.run_id} needs no report")
        message = _message(context) if failed else f"{len(checks)} checks failed"
        on_failure(RunFailure(touched, run.run_id, run.job_name, message, checks))
        return None

    @dg.run_failure_sensor(
        name=f"{options.name}_failed_runs", default_status=_sensor_status(options)
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        return call(context, failed=True)

    @dg.run_status_sensor(
        dg.DagsterRunStatus.SUCCESS,
        name=f"{options.name}_failed_checks",
        default_status=_sensor_status(options),
    )
    def failed_checks(context: dg.RunStatusSensorContext) -> dg.SkipReason | None:
        return call(context, failed=False)

    return [failed_runs, failed_checks]


def entities_of_run(run: dg.DagsterRun, entities: Sequence[str], options: DefsOptions) -> list[str]:
    """The entities that a run is about: by its job, or by the assets that were selected."""
    selected = run.asset_selection or set()
    return [
        name
        for name in entities
        if run.job_name == options.job(name) or selected & {*options.keys(name)}
    ]


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    records = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    found = {}
    for record in records:
        event = record.event_log_entry.dagster_event
        check = event.asset_check_evaluation_data if event else None
        if check and not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            name = f"{check.asset_key.to_user_string()}: {check.check_name}"
            found[name] = check.description or ""
    return found


def _message(context: dg.RunStatusSensorContext) -> str:
    steps = context.for_run_failure().get_step_failure_events()
    errors = [event.step_failure_data.error for event in steps]
    causes = [str((error.cause or error).message).strip() for error in errors if error]
    return "\n".join(causes) or context.dagster_event.message or "the run failed"


def _sensor_status(options: DefsOptions) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus(options.status.value)
