"""Dagster's definitions of the project, before anything runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from embeddings_pipeline.assets.dbt_nodes import asset_nodes, asset_spec, check_specs
from embeddings_pipeline.definitions import definitions
from embeddings_pipeline.entities.manifest import load_manifest
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.resources import dbt_project
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.resources.run_context import PipelineResource
from embeddings_pipeline.settings import Settings
from tests.support import CHECKOUT

# dbt and Dagster warn of themselves
pytestmark = pytest.mark.filterwarnings("ignore")

NOTES = Path(__file__).parent.parent / "support" / "notes_project"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the dbt project of notes, with its manifest; the environment names it."""
    folder = tmp_path_factory.mktemp("definitions")
    shutil.copytree(NOTES, folder / "project")
    with pytest.MonkeyPatch.context() as patch:
        for field in Settings.model_fields:
            patch.delenv(field.upper(), raising=False)
        patch.setenv("DBT_PROJECT_DIR", str(folder / "project"))
        patch.setenv("EMBEDDED_DATA_DIR", str(folder / "data"))
        patch.chdir(folder)
        prepared_manifest(Settings.load())
        yield folder / "project"


@pytest.fixture
def manifest(project: Path) -> dict[str, Any]:
    return load_manifest(project / "target" / "manifest.json")


def load(**settings: Any) -> dg.Definitions:
    return definitions(Settings.load().model_copy(update=settings), PipelineResource())


def load_edited(
    manifest: dict[str, Any], patch: pytest.MonkeyPatch, edit: dict[str, Any], **settings: Any
) -> dg.Definitions:
    """The definitions after an edit of the declaration in stg_note.yml."""
    edited = deepcopy(manifest)
    edited["nodes"]["model.notes.stg_note"]["config"]["meta"]["embedding"] |= edit
    patch.setattr("embeddings_pipeline.definitions.load_manifest", lambda path: edited)
    return load(**settings)


def spec_of(defs: dg.Definitions, *path: str) -> dg.AssetSpec:
    return next(s for s in defs.resolve_all_asset_specs() if s.key == dg.AssetKey(path))


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_definitions_load_without_a_model_or_dbt() -> None:
    load = (
        "import sys\n"
        "import embeddings_pipeline.definitions\n"
        "names = {'torch', 'sentence_transformers', 'dbt', 'matplotlib', 'pandas'}\n"
        "print(*(names & set(sys.modules)))"
    )
    run_python(load)  # parses the project where that was not done yet
    assert run_python(load).split() == []


@pytest.mark.parametrize(
    "package",
    [
        "pipeline",
        "entities",
        "encoders",
        "store",
        "sync",
        "search",
        "service",
        "cli",
        "resources.dbt_project",
    ],
)
def test_the_core_and_the_commands_start_without_dagster_dbt_torch_and_pillow(package: str) -> None:
    loaded = run_python(
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module('embeddings_pipeline.{package}')\n"
        "paths, prefix = getattr(package, '__path__', []), package.__name__ + '.'\n"
        "for found in pkgutil.walk_packages(paths, prefix):\n"
        "    importlib.import_module(found.name)\n"
        "names = {'dagster', 'dagster_dbt', 'dbt', 'redis', 'torch', 'PIL'}\n"
        "print(*(names & set(sys.modules)))"
    )
    assert loaded.split() == []


def test_loading_starts_no_database(project: Path) -> None:
    load().get_repository_def()
    assert not (project.parent / "data").exists()


def test_models_and_tests_are_what_dagster_dbt_says_they_are(manifest: dict[str, Any]) -> None:
    from dagster_dbt import DagsterDbtTranslator
    from dagster_dbt.asset_utils import build_dbt_specs

    specs, checks = build_dbt_specs(
        translator=DagsterDbtTranslator(),
        manifest=manifest,
        select="fqn:*",
        exclude="",
        selector="",
        io_manager_key=None,
        project=None,
    )
    nodes = asset_nodes(manifest)

    def facts(spec: dg.AssetSpec) -> tuple[Any, ...]:
        return ({d.asset_key for d in spec.deps}, spec.code_version, [*spec.owners], spec.skippable)

    def check_facts(spec: dg.AssetCheckSpec) -> tuple[Any, ...]:
        return ({d.asset_key for d in spec.additional_deps}, spec.blocking)

    mine = [asset_spec(manifest, unique_id) for unique_id in nodes]
    assert {s.key: facts(s) for s in mine} == {s.key: facts(s) for s in specs}
    assert {c.key: check_facts(c) for c in check_specs(manifest, nodes)} == {
        c.key: check_facts(c) for c in checks
    }


def test_the_assets_of_an_entity_lead_from_its_model_to_the_marts(project: Path) -> None:
    defs = load()
    chain = [("staging", "stg_note")]
    chain += [("note", name) for name in ("texts", "vectors", "index", "embeddings")]
    for upstream, asset in pairwise(chain):
        spec = spec_of(defs, *asset)
        assert [d.asset_key for d in spec.deps] == [dg.AssetKey(upstream)]
        assert (spec.group_name, [*spec.owners]) == ("note", ["notes@example.com"])
        assert spec.description
        assert spec.code_version
        assert spec.kinds
    mart = {d.asset_key for d in spec_of(defs, "marts", "note_with_embedding").deps}
    assert mart == {dg.AssetKey(["note", "embeddings"]), dg.AssetKey(["staging", "stg_note"])}
    coverage = {d.asset_key for d in spec_of(defs, "entity_coverage").deps}
    assert coverage == {dg.AssetKey([name, "embeddings"]) for name in ("event", "note")}


def test_the_published_view_has_a_freshness_policy(project: Path) -> None:
    policy = spec_of(load(), "note", "embeddings").freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=50), warn_window=timedelta(hours=26)
    )


@pytest.mark.parametrize("asset", ["texts", "vectors"])
def test_texts_and_vectors_are_partitioned_as_the_entity_declares(
    project: Path, asset: str
) -> None:
    defs = load()
    by_hash = spec_of(defs, "note", asset).partitions_def
    assert by_hash is not None
    assert by_hash.get_partition_keys() == ["00", "01", "02", "03"]
    by_day = spec_of(defs, "event", asset).partitions_def
    assert isinstance(by_day, dg.DailyPartitionsDefinition)
    assert by_day.get_partition_keys()[0] == "2026-01-01"
    # today is there
    assert by_day.end_offset == 1


@pytest.mark.parametrize("name", ["texts", "vectors"])
@pytest.mark.parametrize(("per_run", "most"), [(None, None), (2, 2)])
def test_a_backfill_is_one_run_unless_it_is_to_fan_out(
    project: Path, per_run: int | None, most: int | None, name: str
) -> None:
    defs = load(embedding_partitions_per_run=per_run)
    asset = defs.get_assets_def(dg.AssetKey(["note", name]))
    assert asset.backfill_policy is not None
    assert asset.backfill_policy.max_partitions_per_run == most


def test_what_is_started_by_hand_runs_in_one_process_too(project: Path) -> None:
    repository = load().get_repository_def()
    assert {job.executor_def.name for job in repository.get_all_jobs()} == {"in_process"}


def test_runs_that_encode_share_a_pool(project: Path) -> None:
    asset = load().get_assets_def(dg.AssetKey(["note", "vectors"]))
    assert asset.op.pool == "encoder"


def test_another_template_or_model_shows_as_another_code_version(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = {"template": "To do: {title}", "include": None}
    before = load()
    after = load_edited(manifest, monkeypatch, edit, embedding_model="fake/other")

    def versions(defs: dg.Definitions) -> list[str | None]:
        return [spec_of(defs, "note", name).code_version for name in ("texts", "vectors", "index")]

    changed = [a != b for a, b in zip(versions(before), versions(after), strict=True)]
    assert changed == [True, True, False]


@pytest.mark.parametrize(
    ("enabled", "status"),
    [(True, dg.DefaultScheduleStatus.RUNNING), (False, dg.DefaultScheduleStatus.STOPPED)],
)
def test_schedules_are_on_unless_embedding_is_off(
    project: Path, enabled: bool, status: dg.DefaultScheduleStatus
) -> None:
    schedules = load(embedding_enabled=enabled).get_repository_def().schedule_defs
    assert {s.name: s.cron_schedule for s in schedules} == {
        "note_schedule": "0 2 * * *",
        "event_schedule": "0 */6 * * *",
        "marts_schedule": "0 4 * * *",
    }
    assert {s.default_status for s in schedules} == {status}


def test_a_wrong_declaration_fails_its_own_job_and_lets_the_others_load(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = load().get_repository_def()
    defs = load_edited(manifest, monkeypatch, {"colour": "red"})
    repository = defs.get_repository_def()
    assert repository.job_names == good.job_names
    assert [s.name for s in repository.schedule_defs] == [s.name for s in good.schedule_defs]
    assert set(repository.asset_graph.get_all_asset_keys()) == set(
        good.asset_graph.get_all_asset_keys()
    )
    # what reads its view is not taken for what it is made from
    assert set(defs.resolve_job_def("marts").asset_layer.executable_asset_keys) == {
        dg.AssetKey(["marts", "note_with_embedding"])
    }
    assert spec_of(defs, "event", "vectors").partitions_def is not None
    message = "model 'stg_note' (models/staging/stg_note.yml): meta.embedding has no key 'colour'"
    assert (spec_of(defs, "note", "texts").description or "").startswith(message)
    result = defs.resolve_job_def("note_embeddings").execute_in_process(raise_on_error=False)
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert message in str(failure.event_specific_data)


@pytest.mark.parametrize("name", ["my notes", "", "note"])
def test_an_entity_without_a_name_for_dagster_lets_the_others_load(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    defs = load_edited(manifest, monkeypatch, {"entity": name, "limit": 0})
    repository = defs.get_repository_def()
    assert repository.has_job("event_embeddings")
    assert repository.has_job("note_embeddings") == (name == "note")


def test_what_dagster_refuses_of_an_entity_fails_it_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embeddings_pipeline.assets import automation

    made = automation.entity_job

    def refused(entity: Any, node: Any) -> Any:
        if entity.name == "note":
            raise dg.DagsterInvalidDefinitionError("no such thing")
        return made(entity, node)

    monkeypatch.setattr(automation, "entity_job", refused)
    defs = load()
    assert spec_of(defs, "note", "texts").description == "no such thing"
    assert spec_of(defs, "event", "texts").description != "no such thing"


@pytest.mark.parametrize(
    ("meta", "owners"),
    [
        ({"owners": ["nobody", "team:data", "a@example.com"]}, ["team:data", "a@example.com"]),
        ({"owners": 5}, []),
        ({"group": 5, "owners": []}, []),
        ("wrong", []),
    ],
)
def test_what_dagster_refuses_of_a_model_is_left_out(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, meta: Any, owners: list[str]
) -> None:
    edited = deepcopy(manifest)
    edited["nodes"]["model.notes.stg_note"]["config"]["meta"]["dagster"] = meta
    monkeypatch.setattr("embeddings_pipeline.definitions.load_manifest", lambda path: edited)
    defs = load()
    defs.get_repository_def()
    assert [*spec_of(defs, "note", "vectors").owners] == owners
    assert [*spec_of(defs, "staging", "stg_note").owners] == owners


def test_marts_are_left_out_where_they_cannot_read_the_vectors(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(NOTES, tmp_path / "project")
    monkeypatch.setenv("DBT_PROJECT_DIR", str(tmp_path / "project"))
    monkeypatch.setenv("STAGING_DB_HOST", "warehouse.example")
    monkeypatch.setenv("PGVECTOR_HOST", "vectors.example")
    repository = load().get_repository_def()
    assert not repository.has_job("marts")
    assert repository.has_job("note_embeddings")


def test_a_project_that_dbt_cannot_parse_is_told_by_dbts_words(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(NOTES, tmp_path / "project")
    monkeypatch.setenv("DBT_PROJECT_DIR", str(tmp_path / "project"))
    broken = tmp_path / "project" / "models" / "staging" / "stg_broken.sql"
    broken.write_text("select * from {{ ref('nothing') }}")
    with pytest.raises(ConfigurationError, match=r"depends on a node named 'nothing'"):
        load()


def test_the_manifest_is_parsed_again_only_where_the_project_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load()
    prepared_manifest(settings)
    parsed = []
    monkeypatch.setattr(dbt_project, "_parse", lambda *arguments: parsed.append(arguments))
    prepared_manifest(settings)
    assert parsed == []
    (project / "seeds" / "raw_notes.csv").touch()
    prepared_manifest(settings)
    assert parsed == []
    (project / "models" / "staging" / "stg_note.sql").touch()
    prepared_manifest(settings)
    assert len(parsed) == 1
    prepared_manifest(settings.model_copy(update={"dbt_target": "other"}))
    assert len(parsed) == 2


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"dbt_project_dir": tmp_path})
    with pytest.raises(ConfigurationError, match="holds no dbt project"):
        prepared_manifest(settings)


def test_dagster_validates_the_definitions_of_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an instance that keeps its runs in files
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("DBT_PROJECT_DIR", raising=False)
    done = subprocess.run(
        [Path(sys.executable).with_name("dagster"), "definitions", "validate"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stderr
