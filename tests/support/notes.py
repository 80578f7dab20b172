"""A small dbt project of notes on a database of its own, and Dagster's definitions of it.

`pytest.mark.filterwarnings("ignore")` goes with it: dbt and Dagster warn of themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster_shared.record import replace as replace_record

from embeddings_pipeline import dbt_command
from embeddings_pipeline.cli.dbt_models import build_staging
from embeddings_pipeline.database import Database
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.resources.run_context import RunContext
from embeddings_pipeline.settings import Settings
from tests.support.databases import Templates, copy_of
from tests.support.environment import only_settings

PROJECT = Path(__file__).parent / "notes_project"


class Notes:
    """The project, and its jobs on a scratch instance; models are loaded once for all runs."""

    def __init__(self, folder: Path, database: Database, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.database = database
        self.instance = instance
        self.settings = Settings.load()
        self.running = RunContext(Pipeline(self.settings), lambda progress: None)

    @cached_property
    def defs(self) -> dg.Definitions:
        """The definitions of the project, whose runs share one pipeline."""
        # importing dagster-dbt warns of its libraries
        from embeddings_pipeline.assets.project import project_definitions

        defs = project_definitions(self.settings)
        shared = {"embeddings": self.running}
        return replace_record(defs, resources={**(defs.resources or {}), **shared})

    def build(self) -> None:
        """Build the seeds and the staging models with dbt."""
        manifest = dbt_command.parse(self.settings)
        build_staging(self.settings, self.running.pipeline.staging, manifest, [], seeds=True)

    def execute(
        self, job: str, assets: Sequence[Sequence[str]] | None = None, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Run a job, or some of its assets."""
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets] if assets else None,
            **options,
        )

    def scheduled(self, entity: str) -> dg.ExecuteInProcessResult:
        """What the entity's schedule starts."""
        schedule = self.defs.get_schedule_def(f"{entity}_embeddings_schedule")
        with dg.build_schedule_context(instance=self.instance) as context:
            (request,) = schedule.evaluate_tick(context).run_requests or []
        return self.execute(
            f"{entity}_embeddings", tags=request.tags, run_config=request.run_config
        )

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []


def rows_of(table: dg.MetadataValue[Any]) -> list[dict[str, Any]]:
    """The rows of a table that is shown beside a run."""
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(row.data) for row in table.records]


def planned(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """What a run of the job `embeddings_plan` shows of each entity."""
    (output,) = (
        event.step_output_data
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.STEP_OUTPUT
    )
    return {row["entity"]: row for row in rows_of(output.metadata["plan"])}


@pytest.fixture(scope="module")
def notes(
    templates: Templates, dbt: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Notes]:
    """The project, seeded; the environment names it and its database."""
    folder = tmp_path_factory.mktemp("notes")
    shutil.copytree(PROJECT, folder / "project")
    with pytest.MonkeyPatch.context() as patch, copy_of(templates.empty) as database:
        only_settings(
            patch,
            STAGING_DB_URL=database.url,
            PGVECTOR_URL=database.url,
            DBT_PROJECT_DIR=str(folder / "project"),
            EMBEDDED_DATA_DIR=str(folder / "data"),
        )
        patch.setattr(dbt_command, "executable", lambda: str(dbt))
        (folder / "home").mkdir()
        (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        patch.chdir(folder)
        with dg.DagsterInstance.get() as instance:
            notes = Notes(folder / "project", database, instance)
            notes.build()
            yield notes
            notes.running.pipeline.close()
