"""The component in the Dagster project of a team, with its own dbt component and translator."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml

from embeddings_pipeline.database import Database
from embeddings_pipeline.settings import Settings
from tests.support import foreign
from tests.support.notes import scratch_database
from tests.support.waiting import until

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

DAGSTER_PROJECT = {
    "pyproject.toml": """
        [project]
        name = "acme_platform"
        version = "0.1"

        [tool.dg]
        directory_type = "project"

        [tool.dg.project]
        root_module = "acme_platform"
    """,
    "acme_platform/__init__.py": "",
    "acme_platform/definitions.py": """
        from pathlib import Path

        import dagster as dg

        defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    """,
    "acme_platform/defs/__init__.py": "",
    "acme_platform/defs/resources.py": """
        import dagster as dg

        # a name that another library might want to have
        defs = dg.Definitions(resources={"engine": "the engine of the team"})
    """,
    "acme_platform/defs/dbt/defs.yaml": """
        type: dagster_dbt.DbtProjectComponent
        attributes:
          project: "{{ project_root }}/dbt"
          translation:
            key_prefix: warehouse
    """,
}


class Project:
    """The project on a database of its own."""

    def __init__(self, folder: Path, database: Database, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.database = database
        self.instance = instance

    def dg(self, *arguments: str) -> str:
        """Run dg, and return what it printed."""
        done = foreign.command("dg", *arguments, cwd=self.folder)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def component(self, folder: str, **attributes: Any) -> None:
        """Write a component of ours."""
        written = {"type": "embeddings_pipeline.EmbeddingsComponent", "attributes": attributes}
        foreign.write(
            self.folder, {f"acme_platform/defs/{folder}/defs.yaml": yaml.safe_dump(written)}
        )

    def load(self) -> dg.Definitions:
        """The definitions of the project as it is now."""
        for name in [n for n in sys.modules if n.split(".")[0] == "acme_platform"]:
            del sys.modules[name]
        return importlib.import_module("acme_platform.definitions").defs

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def project(server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("acme")
    foreign.write(folder / "dbt", foreign.DBT_PROJECT)
    foreign.write(folder, DAGSTER_PROJECT)
    with pytest.MonkeyPatch.context() as patch, scratch_database(server, folder.name) as database:
        for field in Settings.model_fields:
            patch.delenv(field.upper(), raising=False)
        for name, value in foreign.environment(database).items():
            patch.setenv(name, value)
        foreign.write(folder / "home", {"dagster.yaml": "telemetry: {enabled: false}"})
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        # dagster-dbt looks for the dbt command there
        patch.setenv("PATH", str(foreign.BIN), prepend=os.pathsep)
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        foreign.dbt("deps", cwd=folder / "dbt")
        foreign.dbt("parse", cwd=folder / "dbt")
        with dg.DagsterInstance.get() as instance:
            project = Project(folder, database, instance)
            project.sql(foreign.RAW)
            yield project


@pytest.fixture(scope="module")
def scaffolded(project: Project) -> Project:
    """The project with the component as `dg scaffold` writes it, and the prefix of the team."""
    project.dg("scaffold", "defs", "embeddings_pipeline.EmbeddingsComponent", "embeddings")
    path = project.folder / "acme_platform" / "defs" / "embeddings" / "defs.yaml"
    assert yaml.safe_load(path.read_text())["attributes"] == {"manifest": {"component": "dbt"}}
    project.dg("check", "yaml")
    project.dg("check", "defs")
    project.component(
        "embeddings", manifest={"component": "dbt"}, key_prefix="warehouse", partitions_per_run=1
    )
    return project


@pytest.fixture(scope="module")
def defs(scaffolded: Project) -> dg.Definitions:
    return scaffolded.load()


@pytest.fixture(scope="module")
def job_run(scaffolded: Project, defs: dg.Definitions) -> dg.ExecuteInProcessResult:
    """A run of the job of tickets, with the model that dbt builds."""
    return defs.resolve_job_def("ticket_embeddings").execute_in_process(
        instance=scaffolded.instance,
        tags={
            "dagster/asset_partition_range_start": "00",
            "dagster/asset_partition_range_end": "01",
        },
    )


def upstream(defs: dg.Definitions, *path: str) -> set[str]:
    graph = defs.resolve_asset_graph()
    return {key.to_user_string() for key in graph.get(dg.AssetKey(path)).parent_keys}


def test_the_component_is_listed_with_its_package(project: Project) -> None:
    assert "embeddings_pipeline.EmbeddingsComponent" in project.dg("list", "components")


def test_vectors_are_between_the_models_of_the_team_in_one_lineage(defs: dg.Definitions) -> None:
    chain = ["warehouse/stg_ticket_v2"]
    chain += [f"warehouse/ticket/{name}" for name in ("texts", "vectors", "index", "embeddings")]
    for above, below in pairwise(chain):
        assert upstream(defs, *below.split("/")) == {above}
    mart = upstream(defs, "warehouse", "marts", "ticket_search")
    assert mart == {"warehouse/stg_ticket_v2", "warehouse/ticket/embeddings"}


def test_a_model_of_another_package_is_an_entity_and_a_disabled_one_is_none(
    defs: dg.Definitions,
) -> None:
    assert upstream(defs, "warehouse", "person", "texts") == {"warehouse/staging/stg_person"}
    names = {job.name for job in defs.resolve_all_job_defs()}
    assert {"ticket_embeddings", "person_embeddings"} <= names
    assert "old_embeddings" not in names


def test_owners_are_those_of_the_model_or_of_its_group(defs: dg.Definitions) -> None:
    owners = {s.key.to_user_string(): [*s.owners] for s in defs.resolve_all_asset_specs()}
    assert owners["warehouse/ticket/vectors"] == ["support@acme.example"]
    assert owners["warehouse/person/vectors"] == ["team:people"]


def test_every_name_of_ours_can_be_told_from_those_of_the_team(defs: dg.Definitions) -> None:
    repository = defs.resolve_implicit_global_asset_job_def()
    ops = {node.name for node in repository.graph.nodes}
    ours = {op for op in ops if "ticket" in op}
    assert {f"embeddings__ticket__{step}" for step in ("texts", "vectors")} < ours
    assert all(op.startswith("embeddings__ticket__") for op in ours)
    assert {"embeddings", "engine"} <= {*(defs.resources or {})}


def test_schedules_are_stopped_unless_they_are_asked_for(defs: dg.Definitions) -> None:
    schedules = defs.get_repository_def().schedule_defs
    assert {s.name for s in schedules} == {
        "ticket_embeddings_schedule",
        "person_embeddings_schedule",
    }
    assert {s.default_status for s in schedules} == {dg.DefaultScheduleStatus.STOPPED}


def test_the_job_builds_the_model_once_and_embeds_every_row(
    scaffolded: Project, job_run: dg.ExecuteInProcessResult
) -> None:
    assert job_run.success
    assert len([e for e in job_run.get_step_success_events() if "acme" in e.node_name]) == 1
    found = scaffolded.sql("select ticket_id from analytics_features.ticket_embeddings order by 1")
    assert found == [(n,) for n in range(1, 7)]


def test_a_run_reads_the_schema_that_dbt_built_and_not_that_of_the_loaded_manifest(
    scaffolded: Project,
    defs: dg.Definitions,
    job_run: dg.ExecuteInProcessResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaffolded.sql("update raw.tickets set title = 'The printer is cold' where id = 1")
    # the profile puts the models elsewhere; the code location is not loaded again
    monkeypatch.setenv("ACME_SCHEMA", "elsewhere")
    result = defs.resolve_job_def("ticket_embeddings").execute_in_process(
        instance=scaffolded.instance,
        tags={
            "dagster/asset_partition_range_start": "00",
            "dagster/asset_partition_range_end": "01",
        },
    )
    assert result.success
    assert scaffolded.sql("select count(*) from elsewhere_staging.stg_ticket_v2") == [(6,)]
    found = scaffolded.sql(
        "select text from analytics_features.ticket_embeddings where ticket_id = 1"
    )
    assert found == [("title: The printer is cold",)]


def test_a_backfill_of_two_partitions_is_two_runs(
    scaffolded: Project, job_run: dg.ExecuteInProcessResult
) -> None:
    from dagster._core.execution.backfill import PartitionBackfill
    from dagster._core.test_utils import create_test_daemon_workspace_context
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster._daemon.backfill import execute_backfill_iteration
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
        QueuedRunCoordinatorDaemon,
    )

    instance = scaffolded.instance
    keys = [dg.AssetKey(["warehouse", "ticket", name]) for name in ("texts", "vectors")]
    before = {run.run_id for run in instance.get_runs()}
    target = ModuleTarget("acme_platform.definitions", None, None, "acme")
    with create_test_daemon_workspace_context(target, instance) as workspace:
        request = workspace.create_request_context()
        instance.add_backfill(
            PartitionBackfill.from_asset_partitions(
                backfill_id="two",
                asset_graph=request.asset_graph,
                partition_names=["00", "01"],
                asset_selection=keys,
                backfill_timestamp=0.0,
                tags={},
                dynamic_partitions_store=instance,
                all_partitions=False,
                title=None,
                description=None,
                run_config=None,
            )
        )
        list(execute_backfill_iteration(workspace, logging.getLogger("backfill")))
        with QueuedRunCoordinatorDaemon(interval_seconds=1) as queue:
            list(queue.run_iteration(workspace))

        def runs() -> list[dg.DagsterRun]:
            return [run for run in instance.get_runs() if run.run_id not in before]

        until(lambda: all(run.is_finished for run in runs()), seconds=600)
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    assert sorted([*map(run.tags.get, ends)] for run in runs()) == [["00", "00"], ["01", "01"]]
    assert all(run.is_success for run in runs())
    for key in keys:
        assert instance.get_materialized_partitions(key) == {"00", "01"}


def test_two_components_keep_two_schemas(scaffolded: Project) -> None:
    scaffolded.component(
        "embeddings_eu",
        manifest={"component": "dbt"},
        name="embeddings_eu",
        key_prefix="eu",
        entities=["person"],
        settings={"pgvector_schema": "features_eu", "pgvector_url": {"env": "PGVECTOR_URL"}},
    )
    try:
        defs = scaffolded.load()
        for job in ("person_embeddings", "person_embeddings_eu"):
            result = defs.resolve_job_def(job).execute_in_process(
                instance=scaffolded.instance,
                tags={
                    "dagster/asset_partition_range_start": "00",
                    "dagster/asset_partition_range_end": "00",
                },
            )
            assert result.success
    finally:
        (scaffolded.folder / "acme_platform/defs/embeddings_eu/defs.yaml").unlink()
    for schema in ("analytics_features", "features_eu"):
        assert scaffolded.sql(f"select text from {schema}.person_embeddings") == [
            ("bio: Ada, who plans the garden",)
        ]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"manifest": {"component": "dbt"}, "colour": "red"}, "colour"),
        ({"manifest": {"folder": "dbt"}}, "folder"),
        ({"manifest": {}}, "manifest needs one of component"),
        ({"manifest": "nowhere.json"}, "no dbt manifest at"),
        ({"manifest": {"component": "dbt"}, "entities": ["tiket"]}, "there is no entity 'tiket'"),
        ({"manifest": {"component": "dbt"}, "select": "tag:none"}, "select 'tag:none'"),
        ({"manifest": {"component": "dbt"}, "default_status": "ON"}, "must be RUNNING or STOPPED"),
        ({"manifest": {"component": "dbt"}, "executor": "celery"}, "executor is 'celery'"),
        ({"manifest": {"component": "dbt"}, "name": "my embeddings"}, "name is 'my embeddings'"),
        ({"manifest": {"component": "dbt"}, "partitions_per_run": 0}, "partitions_per_run is 0"),
        (
            {"manifest": {"component": "dbt"}, "settings": {"pgvector_shema": "x"}},
            "settings has no key 'pgvector_shema' (keys: ",
        ),
        (
            {"manifest": {"component": "dbt"}, "settings": {"embedding_batch_size": "many"}},
            "settings.embedding_batch_size is 'many'",
        ),
        (
            {"manifest": {"component": "dbt"}, "on_failure": "acme.none"},
            "on_failure is 'acme.none'",
        ),
    ],
)
def test_a_wrong_attribute_is_told_with_its_key_and_the_choices(
    scaffolded: Project, attributes: dict[str, Any], message: str
) -> None:
    scaffolded.component("wrong", **attributes)
    try:
        with pytest.raises(Exception, match=r".") as error:
            scaffolded.load().get_repository_def()
    finally:
        (scaffolded.folder / "acme_platform/defs/wrong/defs.yaml").unlink()
    found, chain = "", error.value
    while chain:
        found, chain = f"{found}\n{chain}", chain.__cause__ or chain.__context__
    assert message in found
