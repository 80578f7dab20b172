"""The component in the Dagster project of a team, with its own dbt component and translator. The
package comes from the wheel."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.support import foreign
from tests.support.databases import Templates
from tests.support.waiting import until
from tests.support.wheel import Installed

# Dagster warns of itself
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
        import os
        from pathlib import Path

        import dagster as dg

        import embeddings_pipeline

        with open(os.environ["IMPORTED"], "a") as file:
            file.write(f"{embeddings_pipeline.__file__}\\n")

        defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    """,
    "acme_platform/defs/__init__.py": "",
    "acme_platform/defs/resources.py": """
        import dagster as dg

        defs = dg.Definitions(
            # a name that another library might want to have
            resources={"engine": "the engine of the team"},
            executor=dg.in_process_executor,
        )
    """,
    "acme_platform/defs/dbt/defs.yaml": """
        type: dagster_dbt.DbtProjectComponent
        attributes:
          project: "{{ project_root }}/dbt"
          translation:
            key_prefix: warehouse
    """,
}
# Dagster loads the definitions and starts runs in this environment
WORKSPACE = """
    load_from:
      - python_module:
          module_name: acme_platform.definitions
          executable_path: {python}
"""
COMPONENTS = "acme_platform/defs"


@pytest.fixture(scope="module")
def project(
    templates: Templates,
    dbt: Path,
    installed: Callable[..., Installed],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[foreign.Project]:
    folder = tmp_path_factory.mktemp("acme")
    with foreign.project(
        folder, DAGSTER_PROJECT, installed("all"), templates.empty, dbt
    ) as project:
        yield project


def write_component(project: foreign.Project, folder: str, /, **attributes: Any) -> None:
    """Write a component of ours."""
    written = {"type": "embeddings_pipeline.EmbeddingsComponent", "attributes": attributes}
    foreign.write(project.folder, {f"{COMPONENTS}/{folder}/defs.yaml": yaml.safe_dump(written)})


@contextmanager
def one_more_component(
    project: foreign.Project, folder: str, /, **attributes: Any
) -> Iterator[None]:
    """Another component of ours, for a block of work."""
    write_component(project, folder, **attributes)
    try:
        yield
    finally:
        (project.folder / COMPONENTS / folder / "defs.yaml").unlink()


@pytest.fixture(scope="module")
def scaffolded(project: foreign.Project) -> foreign.Project:
    """The project with the component as `dg scaffold` writes it, and the prefix of the team."""
    project.run("dg", "scaffold", "defs", "embeddings_pipeline.EmbeddingsComponent", "embeddings")
    path = project.folder / COMPONENTS / "embeddings" / "defs.yaml"
    assert yaml.safe_load(path.read_text())["attributes"] == {"manifest": {"component": "dbt"}}
    project.run("dg", "check", "yaml")
    project.run("dg", "check", "defs")
    write_component(
        project,
        "embeddings",
        manifest={"component": "dbt"},
        key_prefix="warehouse",
        partitions_per_run=1,
    )
    return project


@pytest.fixture(scope="module")
def location(scaffolded: foreign.Project) -> Iterator[foreign.Location]:
    with closing(foreign.Location(scaffolded, "acme_platform.definitions")) as location:
        yield location


@pytest.fixture(scope="module")
def description(location: foreign.Location) -> dict[str, Any]:
    return location.describe()


@pytest.fixture(scope="module")
def job_run(location: foreign.Location) -> list[str]:
    """The steps of a run of the job of tickets, with the model that dbt builds."""
    return location.execute("ticket_embeddings", "00", "01")


def test_vectors_are_between_the_models_of_the_team_in_one_lineage(
    description: dict[str, Any],
) -> None:
    parents = description["parents"]
    chain = ["warehouse/stg_ticket_v2"]
    chain += [f"warehouse/ticket/{name}" for name in ("texts", "vectors", "index", "embeddings")]
    for above, below in pairwise(chain):
        assert parents[below] == [above]
    mart = {"warehouse/stg_ticket_v2", "warehouse/ticket/embeddings"}
    assert {*parents["warehouse/marts/ticket_search"]} == mart


def test_a_model_of_another_package_is_an_entity_and_a_disabled_one_is_none(
    description: dict[str, Any],
) -> None:
    staged = description["parents"]["warehouse/person/texts"]
    assert staged == ["warehouse/staging/stg_person"]
    jobs = description["executors"]
    assert {"ticket_embeddings", "person_embeddings"} <= {*jobs}
    assert "old_embeddings" not in jobs


def test_owners_are_those_of_the_model_or_of_its_group(description: dict[str, Any]) -> None:
    owners = description["owners"]
    assert owners["warehouse/ticket/vectors"] == ["support@acme.example"]
    assert owners["warehouse/person/vectors"] == ["team:people"]


def test_every_name_of_ours_can_be_told_from_those_of_the_team(
    description: dict[str, Any],
) -> None:
    ours = {step for step in description["steps"] if "ticket" in step}
    assert {f"embeddings__ticket__{stage}" for stage in ("texts", "vectors")} < ours
    assert all(step.startswith("embeddings__ticket__") for step in ours)
    assert {"embeddings", "engine"} <= {*description["resources"]}


def test_schedules_are_stopped_unless_they_are_asked_for(description: dict[str, Any]) -> None:
    assert description["schedules"] == {
        "ticket_embeddings_schedule": "STOPPED",
        "person_embeddings_schedule": "STOPPED",
    }


def test_the_job_builds_the_model_once_and_embeds_every_row(
    scaffolded: foreign.Project, job_run: list[str]
) -> None:
    assert len([step for step in job_run if "acme" in step]) == 1
    found = scaffolded.sql("select ticket_id from analytics_features.ticket_embeddings order by 1")
    assert found == [(n,) for n in range(1, 7)]
    scaffolded.assert_only_the_wheel_was_imported()


def test_a_run_reads_the_schema_that_dbt_built_and_not_that_of_the_loaded_manifest(
    scaffolded: foreign.Project, location: foreign.Location, job_run: list[str]
) -> None:
    scaffolded.sql("update raw.tickets set title = 'The printer is cold' where id = 1")
    # the profile puts the models elsewhere; the code location is not loaded again
    location.execute("ticket_embeddings", "00", "01", ACME_SCHEMA="elsewhere")
    assert scaffolded.sql("select count(*) from elsewhere_staging.stg_ticket_v2") == [(6,)]
    found = scaffolded.sql(
        "select text from analytics_features.ticket_embeddings where ticket_id = 1"
    )
    assert found == [("title: The printer is cold",)]


def test_a_backfill_of_two_partitions_is_two_runs(
    scaffolded: foreign.Project, job_run: list[str]
) -> None:
    from dagster._core.execution.backfill import PartitionBackfill
    from dagster._core.test_utils import create_test_daemon_workspace_context
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster._daemon.backfill import execute_backfill_iteration
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
        QueuedRunCoordinatorDaemon,
    )

    keys = [dg.AssetKey(["warehouse", "ticket", name]) for name in ("texts", "vectors")]
    python = scaffolded.installed.programs / "python"
    foreign.write(scaffolded.folder, {"workspace.yaml": WORKSPACE.format(python=python)})
    target = WorkspaceFileTarget([str(scaffolded.folder / "workspace.yaml")])
    with (
        dg.DagsterInstance.get() as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
    ):
        before = {run.run_id for run in instance.get_runs()}
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
    scaffolded.assert_only_the_wheel_was_imported()


def test_two_components_keep_two_schemas(
    scaffolded: foreign.Project, location: foreign.Location
) -> None:
    with one_more_component(
        scaffolded,
        "embeddings_eu",
        manifest={"component": "dbt"},
        name="embeddings_eu",
        key_prefix="eu",
        entities=["person"],
        settings={"pgvector_schema": "features_eu", "pgvector_url": {"env": "PGVECTOR_URL"}},
    ):
        assert location.refusal() == ""
        for job in ("person_embeddings", "person_embeddings_eu"):
            location.execute(job, "00", "00")
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
    scaffolded: foreign.Project,
    location: foreign.Location,
    attributes: dict[str, Any],
    message: str,
) -> None:
    with one_more_component(scaffolded, "wrong", **attributes):
        assert message in location.refusal()
