"""Builds the definitions of the entities that a dbt manifest declares."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from embeddings_pipeline.assets import automation
from embeddings_pipeline.assets.automation import OnFailure
from embeddings_pipeline.assets.checks import entity_checks
from embeddings_pipeline.assets.entity import broken_assets, entity_assets
from embeddings_pipeline.assets.exporting import export_job
from embeddings_pipeline.assets.options import EXECUTORS, POOL, DefsOptions
from embeddings_pipeline.assets.planning import plan_job
from embeddings_pipeline.assets.upstream import DbtModels, ManifestSource, Translation
from embeddings_pipeline.entities.entity import Entity, ExecutorName
from embeddings_pipeline.entities.manifest import Declared, entities_of
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.resources.run_context import pipeline_resource
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from dagster_dbt import DagsterDbtTranslator

logger = logging.getLogger(__name__)

Status = Literal["RUNNING", "STOPPED"]


def build_embedding_defs(
    manifest: ManifestSource,
    *,
    translator: DagsterDbtTranslator | None = None,
    translation: Translation | None = None,
    entities: Sequence[str] | None = None,
    select: str | None = None,
    exclude: str | None = None,
    name: str = "embeddings",
    key_prefix: str | Sequence[str] = (),
    group: str | None = None,
    partitions_per_run: int | None = None,
    default_status: Status = "STOPPED",
    executor: dg.ExecutorDefinition | ExecutorName = "in_process",
    pool: str | None = POOL,
    op_tags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    on_failure: OnFailure | None = None,
    targets: Sequence[Path] = (),
) -> dg.Definitions:
    """Return the assets, checks, jobs, schedules and sensors of the entities of a dbt manifest.

    They go beside the team's own dbt assets, by `dg.Definitions.merge`. Nothing is read from the
    environment, no dbt is run and no database is connected.

    Args:
        manifest: The path or the content of a manifest.json, a `DbtProject`, or the
            `DbtProjectComponent` of the team.
        translator: The team's `DagsterDbtTranslator`: assets are downstream of the keys that it
            gives the models.
        translation: A function that changes the `AssetSpec` of a model.
        entities: The names of the entities; all by default.
        select: The models of the entities, as a dbt selection; needs dagster-dbt.
        exclude: Models to leave out, as a dbt selection.
        name: The key of the resource, and the beginning of the names of ops; jobs and schedules
            contain it. Two calls in one code location need two names.
        key_prefix: Stands before each asset key.
        group: The group of all assets; by default each entity is a group.
        partitions_per_run: How many partitions a run of a backfill takes; all by default.
        default_status: RUNNING or STOPPED, of schedules and sensors.
        executor: Executes the jobs: in_process, multiprocess, default (that of the code location),
            or an `ExecutorDefinition`.
        pool: The concurrency pool of the runs that encode; None for none.
        op_tags: Tags of each op, such as `dagster-k8s/config`.
        settings: Values that replace those of the environment, by the variable's name in lower
            case; a `dg.EnvVar` is read when a run starts.
        on_failure: Is called with an `assets.automation.RunFailure` for each run that failed, or
            whose checks failed.
        targets: More folders in which dbt builds of this code location leave their manifests, each
            in a folder that dagster-dbt has named; the manifest's own folder is among them.

    Raises:
        ConfigurationError: An argument is wrong, or there is no manifest. The wrong declaration of
            an entity raises nothing: its assets, job and schedule fail with the error.
    """
    options = DefsOptions(
        name=_identifier("name", name),
        key_prefix=(key_prefix,) if isinstance(key_prefix, str) else tuple(key_prefix),
        group=group,
        partitions_per_run=_positive("partitions_per_run", partitions_per_run),
        pool=pool,
        executor=_executor(executor),
        op_tags=dict(op_tags or {}),
        status=dg.DefaultScheduleStatus(_choice("default_status", default_status, Status)),
        settings=_checked_settings(settings or {}),
    )
    dbt = DbtModels.of(manifest, translator, translation, targets)
    declared = _selected(entities_of(dbt.manifest), dbt, entities, select, exclude)
    for warning in declared.warnings:
        logger.warning(warning)
    with warnings.catch_warnings():
        # backfill policies and freshness policies are in beta
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _definitions(declared, dbt, options, on_failure)


def _definitions(
    declared: Declared, dbt: DbtModels, options: DefsOptions, on_failure: OnFailure | None
) -> dg.Definitions:
    eager = [name for name, entity in declared.entities.items() if entity.automation]
    sensors = [automation.orphaned_runs_sensor([*declared.models], options)]
    if eager:
        sensors.append(automation.automation_sensor(eager, options))
    if on_failure:
        sensors += automation.failure_sensors([*declared.models], on_failure, options)
    coverage_view = dg.AssetSpec(
        options.coverage_key,
        deps=[options.key(name, "embeddings") for name in declared.models],
        description="One row for each entity, with how many of its rows have vectors.",
        group_name=options.group or options.name,
        kinds={"postgres", "view"},
    )
    return dg.Definitions.merge(
        *(
            _entity_definitions(entity, dbt.spec(declared.models[name]), options)
            for name, entity in declared.entities.items()
        ),
        *(
            _broken_definitions(name, error, dbt.spec(declared.models[name]), options)
            for name, error in declared.broken.items()
        ),
        dg.Definitions(
            assets=[coverage_view],
            jobs=[plan_job([*declared.models], options), export_job(options)],
            sensors=sensors,
            resources={
                options.name: pipeline_resource(
                    options.settings, dbt.path or dbt.manifest, dbt.targets
                )
            },
        ),
    )


def _entity_definitions(
    entity: Entity, model: dg.AssetSpec, options: DefsOptions
) -> dg.Definitions:
    try:
        description = f"Builds `{entity.table}` and brings the vectors of {entity.name} up to date."
        job = automation.entity_job(entity, options, description)
        # an entity with `automation` has a schedule, too, where it declares one
        scheduled = entity.automation is None or "schedule" in entity.model_fields_set
        return dg.Definitions(
            assets=entity_assets(entity, model, options),
            asset_checks=[entity_checks(entity, options)],
            jobs=[job],
            schedules=[automation.entity_schedule(entity, job, options)] if scheduled else [],
        )
    except Exception as error:
        # Dagster may refuse a name or a value that the declaration allows
        return _broken_definitions(entity.name, error, model, options)


def _broken_definitions(
    name: str, error: Exception, model: dg.AssetSpec, options: DefsOptions
) -> dg.Definitions:
    logger.warning("entity %r cannot be run: %s", name, error)
    if not re.fullmatch(r"\w+", name, re.ASCII):
        # not a valid name of a group or a job
        return dg.Definitions()
    job = automation.broken_job(name, error, options)
    return dg.Definitions(
        assets=broken_assets(name, error, model.key, options),
        jobs=[job],
        schedules=[automation.broken_schedule(name, job, options)],
    )


def _selected(
    declared: Declared,
    dbt: DbtModels,
    names: Sequence[str] | None,
    select: str | None,
    exclude: str | None,
) -> Declared:
    """The declarations of these entities, and of the models of a dbt selection."""
    chosen = set(declared.models)
    if names is not None:
        unknown = sorted({*names} - chosen)
        if unknown:
            raise ConfigurationError(
                f"entities: there is no entity {unknown[0]!r} (entities:"
                f" {', '.join(declared.models) or 'none'})"
            )
        chosen &= {*names}
    if select or exclude:
        unique_ids = dbt.select(select or "fqn:*", exclude or "")
        chosen &= {n for n, node in declared.models.items() if node["unique_id"] in unique_ids}
        if not chosen:
            raise ConfigurationError(
                f"select {select or 'fqn:*'!r}, exclude {exclude or ''!r}: no model of these"
                f" declares an entity (entities: {', '.join(declared.models) or 'none'})"
            )
    return Declared(
        {name: entity for name, entity in declared.entities.items() if name in chosen},
        {name: error for name, error in declared.broken.items() if name in chosen},
        {name: node for name, node in declared.models.items() if name in chosen},
        declared.warnings,
    )


def _checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, their names and plain values checked; those of an EnvVar when a run starts."""
    fields = Settings.model_fields
    for name, value in settings.items():
        if name not in fields:
            raise ConfigurationError(
                f"settings has no key {name!r} (keys: {', '.join(sorted(fields))})"
            )
        if isinstance(value, dg.EnvVar):
            continue
        field = fields[name]
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
            adapter.validate_python(value)
        except ValidationError as error:
            shown = "" if "SecretStr" in str(field.annotation) else f" is {value!r}"
            message = error.errors()[0]["msg"]
            raise ConfigurationError(f"settings.{name}{shown}: {message}") from None
    return dict(settings)


def _executor(executor: object) -> dg.ExecutorDefinition | None:
    if isinstance(executor, dg.ExecutorDefinition):
        return executor
    return EXECUTORS[_choice("executor", executor, ExecutorName)]


def _choice(key: str, value: object, choices: Any) -> str:
    if value not in get_args(choices):
        raise ConfigurationError(f"{key} is {value!r}: must be {' or '.join(get_args(choices))}")
    return str(value)


def _identifier(key: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or "__" in value:
        raise ConfigurationError(
            f"{key} is {value!r}: must be letters, digits and single underscores, as embeddings_eu"
        )
    return value


def _positive(key: str, value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"{key} is {value!r}: must be a whole number of at least 1")
    return value
