"""The definitions of a project of its own: its dbt models, and the entities that they declare.

Its parts are the same as in the Dagster project of any team: dagster-dbt builds the models, and
`build_embedding_defs` adds the entities.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)
from dagster_dbt import DagsterDbtTranslator, DbtCliResource, DbtProject, dbt_assets
from dagster_dbt.asset_utils import group_from_dbt_resource_props_fallback_to_directory
from packaging.version import Version

from embeddings_pipeline import dbt_command
from embeddings_pipeline.assets.factory import Status, build_embedding_defs
from embeddings_pipeline.assets.upstream import valid_owners
from embeddings_pipeline.entities.manifest import MANIFEST, load_manifest, target_dir
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as AssetJob,
    )

# after the entities
_MARTS_CRON = "0 4 * * *"


class Translator(DagsterDbtTranslator):
    """Groups nodes by folder (staging, marts) or type, and leaves out owners that Dagster refuses,
    which would prevent the code location from loading."""

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The group of its meta, its dbt group, or its folder."""
        group = group_from_dbt_resource_props_fallback_to_directory(dbt_resource_props)
        return re.sub(r"\W", "_", group or f"{dbt_resource_props['resource_type']}s", flags=re.A)

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> Sequence[str] | None:
        """The owners of its meta or its dbt group."""
        owners = super().get_owners(dbt_resource_props)
        return valid_owners(owners, dbt_resource_props["name"])


class DbtCommand(DbtCliResource):
    """The dbt command of this environment.

    Reads its version from the installed package. dagster-dbt would run `dbt --version`, which asks
    PyPI for later versions, and waits where that does not answer.
    """

    @cached_property
    def _cli_version(self) -> Version:
        try:
            return Version(metadata.version("dbt-core"))
        except metadata.PackageNotFoundError:
            return super()._cli_version


def project_definitions(settings: Settings) -> dg.Definitions:
    """The dbt models, the entities, and the jobs and schedules of both; starts no database.

    With DBT_MANIFEST, others build the models, and only the entities are here. Raises
    ConfigurationError where there is no manifest and dbt cannot parse the project.
    """
    translator = Translator()
    status: Status = "RUNNING" if settings.embedding_enabled else "STOPPED"
    source: DbtProject | Path = settings.dbt_manifest or _project(settings)
    embedding_defs = build_embedding_defs(
        source,
        translator=translator,
        partitions_per_run=settings.embedding_partitions_per_run,
        default_status=status,
        settings={
            "embedding_model": settings.embedding_model,
            "pgvector_schema": settings.pgvector_schema,
        },
    )
    if isinstance(source, Path):
        return embedding_defs
    manifest = load_manifest(source.manifest_path)
    models = _dbt_models(source, manifest, translator, settings)
    jobs = _dbt_jobs(manifest, models, embedding_defs)
    return dg.Definitions.merge(
        embedding_defs,
        dg.Definitions(
            assets=[models],
            jobs=jobs,
            schedules=[
                dg.ScheduleDefinition(
                    name="marts_schedule",
                    job=job,
                    cron_schedule=_MARTS_CRON,
                    default_status=dg.DefaultScheduleStatus(status),
                )
                for job in jobs
                if job.name == "marts"
            ],
            resources={
                "dbt": DbtCommand(
                    # takes a DbtProject, too, as its base does
                    project_dir=source,  # type: ignore[arg-type]
                    dbt_executable=dbt_command.executable(),
                )
            },
        ),
    )


def _project(settings: Settings) -> DbtProject:
    """The dbt project, whose manifest is in the folder of this deployment. In development it is
    parsed each time that the code location is loaded, though not for each run."""
    target = target_dir(settings).resolve()
    loads = DefinitionsLoadContext.get().load_type == DefinitionsLoadType.INITIALIZATION
    develops = bool(os.environ.get("DAGSTER_IS_DEV_CLI")) and loads
    if develops or not (target / MANIFEST).exists():
        dbt_command.parse(settings)
    return DbtProject(
        settings.dbt_project_dir,
        target_path=target,
        profiles_dir=dbt_command.profiles_dir(settings),
        target=settings.dbt_target,
    )


def _dbt_models(
    project: DbtProject,
    manifest: Mapping[str, Any],
    translator: DagsterDbtTranslator,
    settings: Settings,
) -> dg.AssetsDefinition:
    @dbt_assets(
        name="dbt_models",
        manifest=manifest,
        project=project,
        dagster_dbt_translator=translator,
    )
    def dbt_models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
        database = settings.staging_database or embedded.start(settings.embedded_data_dir)
        with dbt_command.scratch(settings) as folder:
            with _environment(dbt_command.environment(settings, database)):
                invocation = dbt.cli(
                    ["build", *dbt_command.variables(settings)], context=context, target_path=folder
                )
            with short_warnings():
                yield from invocation.stream().fetch_column_metadata()

    return dbt_models


def _dbt_jobs(
    manifest: Mapping[str, Any], models: dg.AssetsDefinition, embedding_defs: dg.Definitions
) -> "list[AssetJob]":
    """A job for the models before the vectors, and one for those that read the vectors, where there
    are any."""
    ours: set[dg.AssetKey] = set()
    for asset in embedding_defs.assets or []:
        if isinstance(asset, dg.AssetSpec):
            ours.add(asset.key)
        elif isinstance(asset, dg.AssetsDefinition):
            ours.update(asset.keys)
    read = [
        unique_id
        for unique_id, source in manifest["sources"].items()
        if Translator().get_asset_key(source) in ours and manifest["child_map"].get(unique_id)
    ]
    readers = dg.AssetSelection.keys(*ours).downstream(include_self=False)
    dbt = dg.AssetSelection.assets(models)
    selections = {"staging": dbt - readers} | ({"marts": dbt & readers} if read else {})
    return [
        dg.define_asset_job(
            name,
            selection=selection,
            executor_def=dg.in_process_executor,
            description="One dbt build of these models, with their tests.",
        )
        for name, selection in selections.items()
    ]


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a block: dbt reads its profile's variables from the environment."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def short_warnings() -> Iterator[None]:
    """One line where the columns of a model cannot be derived, in place of a traceback."""

    def shorten(record: logging.LogRecord) -> bool:
        if record.exc_info:
            record.msg, record.args = record.getMessage().splitlines()[0], None
            record.exc_info = None
        return True

    logger = dg.get_dagster_logger()
    logger.addFilter(shorten)
    try:
        yield
    finally:
        logger.removeFilter(shorten)
