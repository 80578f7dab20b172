"""What starts runs, and what reports their failures, over a manifest without a dbt project."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.storage.tags import CODE_LOCATION_TAG, GRPC_INFO_TAG

from embeddings_pipeline.assets.automation import RunFailure
from embeddings_pipeline.assets.factory import build_embedding_defs
from embeddings_pipeline.entities.manifest import entities_of

# some parts of Dagster are in beta
pytestmark = pytest.mark.filterwarnings("ignore")


def manifest(**keys: Any) -> dict[str, Any]:
    """The manifest of one model, which declares an entity with these keys."""
    node = {
        "unique_id": "model.shop.stg_shoe",
        "resource_type": "model",
        "name": "stg_shoe",
        "schema": "staging",
        "config": {"meta": {"embedding": {"id": "id", "partitions": {"count": 2}, **keys}}},
    }
    return {"nodes": {node["unique_id"]: node}}


@dg.asset(key="stg_shoe")
def stg_shoe() -> None:
    """The model, as another tool builds it."""


def definitions(found: dict[str, Any], **options: Any) -> dg.Definitions:
    return dg.Definitions.merge(
        dg.Definitions(assets=[stg_shoe]), build_embedding_defs(found, **options)
    )


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def tick(defs: dg.Definitions, instance: dg.DagsterInstance) -> dg.ScheduleExecutionData:
    schedule = defs.get_schedule_def("shoe_embeddings_schedule")
    with dg.build_schedule_context(instance=instance) as context:
        return schedule.evaluate_tick(context)


def running(instance: dg.DagsterInstance, **about: Any) -> dg.DagsterRun:
    """A run that is in progress."""
    run = dg.DagsterRun(status=dg.DagsterRunStatus.STARTED, **about)
    instance.add_run(run)
    return run


def test_a_schedule_takes_every_partition_and_what_is_pending(
    instance: dg.DagsterInstance,
) -> None:
    (request,) = tick(definitions(manifest(limit=7)), instance).run_requests or []
    assert request.tags["dagster/asset_partition_range_start"] == "00"
    assert request.tags["dagster/asset_partition_range_end"] == "01"
    ops = request.run_config["ops"]
    assert ops["embeddings__shoe__vectors"]["config"]["limit"] == 7
    assert ops["embeddings__shoe__texts"]["config"]["include_backlog"]


@pytest.mark.parametrize(
    "about",
    [
        {"job_name": "shoe_embeddings"},
        {
            "job_name": "__ASSET_JOB",
            "asset_selection": frozenset([dg.AssetKey(["shoe", "vectors"])]),
        },
    ],
)
def test_a_schedule_skips_while_a_run_of_its_entity_is_in_progress(
    instance: dg.DagsterInstance, about: dict[str, Any]
) -> None:
    run = running(instance, **about)
    skipped = tick(definitions(manifest()), instance)
    assert skipped.skip_message == f"run {run.run_id} of shoe is started"
    assert not skipped.run_requests


def test_a_run_of_something_else_does_not_hold_a_schedule_up(instance: dg.DagsterInstance) -> None:
    running(instance, job_name="hat_embeddings")
    assert tick(definitions(manifest()), instance).run_requests


def test_an_eager_entity_runs_when_its_model_was_built_and_has_no_schedule(
    instance: dg.DagsterInstance,
) -> None:
    defs = definitions(manifest(automation="eager"))
    assert [s.name for s in defs.get_repository_def().schedule_defs] == []
    first = dg.evaluate_automation_conditions(defs, instance)
    assert first.total_requested == 0
    dg.materialize([stg_shoe], instance=instance)
    after = dg.evaluate_automation_conditions(defs, instance, cursor=first.cursor)
    requested = after.get_requested_partitions(dg.AssetKey(["shoe", "texts"]))
    assert requested == {"00", "01"}
    assert after.get_requested_partitions(dg.AssetKey(["shoe", "vectors"])) == {"00", "01"}
    # the view follows when the vectors are there
    assert after.get_num_requested(dg.AssetKey(["shoe", "embeddings"])) == 0
    for name in ("texts", "vectors"):
        for partition in ("00", "01"):
            key = dg.AssetKey(["shoe", name])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
    last = dg.evaluate_automation_conditions(defs, instance, cursor=after.cursor)
    assert last.get_num_requested(dg.AssetKey(["shoe", "embeddings"])) == 1


def test_an_eager_entity_may_have_a_schedule_beside(instance: dg.DagsterInstance) -> None:
    defs = definitions(manifest(automation="eager", schedule="0 3 * * *"))
    assert [s.cron_schedule for s in defs.get_repository_def().schedule_defs] == ["0 3 * * *"]


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED"])
def test_the_sensor_of_eager_entities_begins_as_it_is_asked_to(status: str) -> None:
    defs = definitions(manifest(automation="eager"), default_status=status)
    sensor = defs.get_sensor_def("embeddings_automation")
    assert sensor.default_status.value == status


def test_the_texts_and_the_vectors_have_the_freshness_of_the_entity() -> None:
    defs = definitions(manifest(freshness={"warn": "2h", "fail": "4h"}))
    policies = {s.key.path[-1]: s.freshness_policy for s in defs.resolve_all_asset_specs()}
    assert policies["texts"] == policies["vectors"] == policies["embeddings"] is not None
    assert policies["index"] is None


def failing_checks() -> dg.JobDefinition:
    """A run that succeeds, with two failed checks of which one is an error."""

    @dg.op(out={})
    def check() -> Iterator[dg.AssetCheckEvaluation]:
        for name, severity in (("coverage", "ERROR"), ("truncated", "WARN")):
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(["shoe", "vectors"]),
                check_name=name,
                passed=False,
                severity=dg.AssetCheckSeverity[severity],
                description=f"{name} is not right",
            )

    @dg.job(name="shoe_embeddings")
    def job() -> None:
        check()

    return job


def failing_run(name: str) -> dg.JobDefinition:
    @dg.op
    def fail() -> None:
        raise dg.Failure("the database is gone")

    @dg.job(name=name)
    def job() -> None:
        fail()

    return job


def reported(
    instance: dg.DagsterInstance, job: dg.JobDefinition, sensor: str, event: dg.DagsterEventType
) -> list[RunFailure]:
    """What the team's function is called with after a run of this job."""
    failures: list[RunFailure] = []
    defs = definitions(manifest(), on_failure=failures.append)
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    (found,) = [e for e in result.all_events if e.event_type == event]
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor,
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=found,
    )
    if event == dg.DagsterEventType.RUN_FAILURE:
        context = context.for_run_failure()
    defs.get_sensor_def(sensor)(context)
    return failures


def test_a_failed_run_is_reported_with_its_entity_and_the_error(
    instance: dg.DagsterInstance,
) -> None:
    (failure,) = reported(
        instance,
        failing_run("shoe_embeddings"),
        "embeddings_failed_runs",
        dg.DagsterEventType.RUN_FAILURE,
    )
    assert (failure.entities, failure.job) == (["shoe"], "shoe_embeddings")
    assert "the database is gone" in failure.message


def test_a_failed_run_of_something_else_is_not_reported(instance: dg.DagsterInstance) -> None:
    job = failing_run("hat_embeddings")
    event = dg.DagsterEventType.RUN_FAILURE
    assert reported(instance, job, "embeddings_failed_runs", event) == []


def test_a_failed_check_of_severity_error_is_reported_though_the_run_succeeds(
    instance: dg.DagsterInstance,
) -> None:
    event = dg.DagsterEventType.RUN_SUCCESS
    (failure,) = reported(instance, failing_checks(), "embeddings_failed_checks", event)
    assert failure.checks == {"shoe/vectors: coverage": "coverage is not right"}
    assert failure.message == "1 checks failed"


@pytest.mark.parametrize(
    ("job", "location", "status"),
    [
        ("shoe_embeddings", "shop", dg.DagsterRunStatus.FAILURE),
        ("shoe_embeddings", "elsewhere", dg.DagsterRunStatus.STARTED),
        ("hat_embeddings", "shop", dg.DagsterRunStatus.STARTED),
    ],
)
def test_a_run_that_was_killed_with_its_code_location_is_marked_as_failed(
    instance: dg.DagsterInstance, job: str, location: str, status: dg.DagsterRunStatus
) -> None:
    run = instance.create_run_for_job(
        failing_run(job), tags={CODE_LOCATION_TAG: location, GRPC_INFO_TAG: "{}"}
    )
    # its process is not there
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job, pid=2**22 + 1), run.run_id
    )
    sensor = definitions(manifest()).get_sensor_def("embeddings_orphaned_runs")
    with dg.build_sensor_context(instance) as context:
        origin = GrpcServerCodeLocationOrigin("localhost", 4000, location_name="shop")
        context._code_location_origin = origin
        sensor(context)
    assert [r.status for r in instance.get_runs()] == [status]


def test_an_entity_says_where_its_runs_go() -> None:
    run = {
        "tags": {"team": "shoes"},
        "op_tags": {"dagster/priority": "3"},
        "pool": "gpu",
        "queue": "big",
        "resources": {"cpu": 1.5, "memory": "8Gi", "gpu": 1},
        "executor": "multiprocess",
    }
    defs = definitions(manifest(run=run), pool="encoder", op_tags={"of": "the team"})
    job = defs.resolve_job_def("shoe_embeddings")
    resources = {
        "requests": {"cpu": "1.5", "memory": "8Gi"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": 1},
    }
    placed = {"container_config": {"resources": resources}}
    assert json.loads(job.tags["dagster-k8s/config"]) == placed
    assert json.loads(job.tags["dagster-ray/config"]) == {
        "num_cpus": 1.5,
        "num_gpus": 1,
        "memory": 8 << 30,
    }
    assert job.tags.items() >= {
        ("team", "shoes"),
        ("dagster-celery/queue", "big"),
        ("ecs/cpu", "1536"),
        ("ecs/memory", "8192"),
    }
    assert job.executor_def.name == "multiprocess"
    vectors = job.graph.node_named("embeddings__shoe__vectors").definition
    assert isinstance(vectors, dg.OpDefinition)
    assert vectors.pool == "gpu"
    assert vectors.tags.items() >= {("of", "the team"), ("dagster/priority", "3")}
    assert json.loads(vectors.tags["dagster-k8s/config"]) == placed


def test_an_entity_that_says_nothing_has_no_tags_of_launchers() -> None:
    job = definitions(manifest()).resolve_job_def("shoe_embeddings")
    assert not [tag for tag in job.tags if tag.startswith(("ecs/", "dagster-"))]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"resources": {"memory": "8 GB"}}, "run.resources.memory is '?8 GB'?: must match"),
        ({"resources": {"cores": 2}}, "run.resources has no key 'cores'"),
        ({"executor": "celery"}, "run.executor is '?celery'?: must be"),
        ({"nodes": 2}, "run has no key 'nodes'"),
    ],
)
def test_a_wrong_placement_is_told_with_its_key(run: dict[str, Any], message: str) -> None:
    (error,) = entities_of(manifest(run=run)).broken.values()
    assert re.search(message, str(error))
