"""Dagster's definitions of the project, before anything runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from embeddings_pipeline import dbt_command
from embeddings_pipeline.assets.options import ASSETS
from embeddings_pipeline.assets.upstream import DbtModels
from embeddings_pipeline.entities.manifest import load_manifest, manifest_path
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from tests.support import CHECKOUT
from tests.support.environment import only_settings

# dbt and Dagster warn of themselves
pytestmark = pytest.mark.filterwarnings("ignore")

NOTES = Path(__file__).parent.parent / "support" / "notes_project"


@pytest.fixture(scope="module")
def project(dbt: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the dbt project of notes, with its manifest; the environment names it."""
    folder = tmp_path_factory.mktemp("definitions")
    shutil.copytree(NOTES, folder / "project")
    with pytest.MonkeyPatch.context() as patch:
        only_settings(
            patch, DBT_PROJECT_DIR=str(folder / "project"), EMBEDDED_DATA_DIR=str(folder / "data")
        )
        patch.setattr(dbt_command, "executable", lambda: str(dbt))
        patch.chdir(folder)
        dbt_command.parse(Settings.load())
        yield folder / "project"


@pytest.fixture
def manifest(project: Path) -> Iterator[dict[str, Any]]:
    """The manifest; what a test makes of it is undone."""
    path = manifest_path(Settings.load())
    content = path.read_bytes()
    yield load_manifest(path)
    path.write_bytes(content)


def load(**settings: Any) -> dg.Definitions:
    # importing dagster-dbt warns of its libraries
    from embeddings_pipeline.assets.project import project_definitions

    return project_definitions(Settings.load().model_copy(update=settings))


def load_edited(manifest: dict[str, Any], edit: dict[str, Any], **settings: Any) -> dg.Definitions:
    """The definitions after an edit of the declaration in stg_note.yml."""
    manifest["nodes"]["model.notes.stg_note"]["config"]["meta"]["embedding"] |= edit
    manifest_path(Settings.load()).write_text(json.dumps(manifest))
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


def test_a_code_location_of_entities_loads_neither_a_model_nor_dbt(project: Path) -> None:
    # dagster-dbt itself imports dbt where both are installed, so a translator of the team's would
    manifest = str(manifest_path(Settings.load()))
    loaded = run_python(
        "import sys\n"
        "from embeddings_pipeline import build_embedding_defs\n"
        f"build_embedding_defs({manifest!r}).get_repository_def()\n"
        "names = {'torch', 'sentence_transformers', 'dbt', 'dagster_dbt', 'matplotlib', 'pandas'}\n"
        "print(*(names & set(sys.modules)))"
    )
    assert loaded.split() == []


def test_the_core_and_the_commands_start_without_dagster_dbt_torch_and_pillow() -> None:
    # one process for all: the first package that imports one of these is named first
    loaded = run_python(
        "import importlib, pkgutil, sys\n"
        "for name in ('entities', 'store', 'encoders', 'sync', 'search', 'pipeline', 'service',"
        " 'dbt_command', 'cli'):\n"
        "    package = importlib.import_module(f'embeddings_pipeline.{name}')\n"
        "    paths, prefix = getattr(package, '__path__', []), package.__name__ + '.'\n"
        "    for found in pkgutil.walk_packages(paths, prefix):\n"
        # are imported where a model is loaded
        "        if not found.name.endswith(('.bert', '.cpu_kernels', '.cuda_bert')):\n"
        "            importlib.import_module(found.name)\n"
        "    names = {'dagster', 'dagster_dbt', 'dbt', 'redis', 'torch', 'PIL'}\n"
        "    if loaded := names & set(sys.modules):\n"
        "        print(name, *loaded)"
    )
    assert loaded.splitlines() == []


def test_loading_starts_no_database(project: Path) -> None:
    load().get_repository_def()
    assert not (project.parent / "data" / "postgres").exists()


def test_models_have_the_keys_and_owners_that_dagster_dbt_gives_them(
    manifest: dict[str, Any],
) -> None:
    from dagster_dbt import DagsterDbtTranslator

    manifest["groups"]["group.notes.team"] = {"name": "team", "owner": {"email": "t@example.com"}}
    edits: list[dict[str, Any]] = [
        {},
        {"group": "team", "config": {"schema": None, "meta": {}}, "meta": {}},
        {"version": 2, "alias": "stg_note_v2"},
        {"config": {"meta": {"dagster": {"asset_key": ["a", "b"]}}}, "meta": {}},
    ]
    for edit in edits:
        node = manifest["nodes"]["model.notes.stg_note"] | edit
        edited = {**manifest, "nodes": {**manifest["nodes"], node["unique_id"]: node}}
        ours = DbtModels(edited).spec(node)
        theirs = DbtModels(edited, translator=DagsterDbtTranslator()).spec(node)
        assert (ours.key, [*ours.owners]) == (theirs.key, [*theirs.owners])


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


def test_the_jobs_run_in_one_process_and_the_location_keeps_its_own_executor(
    project: Path,
) -> None:
    jobs = load().get_repository_def().get_all_jobs()
    executors = {job.name: job.executor_def.name for job in jobs}
    assert executors.pop("__ASSET_JOB") == "multi_or_in_process_executor"
    assert {*executors.values()} == {"in_process"}


def test_runs_that_encode_share_a_pool(project: Path) -> None:
    asset = load().get_assets_def(dg.AssetKey(["note", "vectors"]))
    assert asset.op.pool == "encoder"


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ({"template": "To do: {title}", "include": None}, ["texts"]),
        ({"language": "german"}, ["texts"]),
        ({"model": "fake/other"}, ["vectors"]),
        ({"storage": "halfvec"}, ["vectors"]),
        ({"index": {"type": "none"}}, ["index"]),
        ({"metric": "l2"}, ["index", "embeddings"]),
        ({"filters": ["title"]}, ["texts", "index", "embeddings"]),
        ({"url": "title"}, ["texts", "embeddings"]),
        ({"retrieval": {"queries": "golden.csv", "ndcg_at_10": 0.5}}, ["embeddings"]),
        ({"schedule": "0 3 * * *"}, []),
    ],
    ids=str,
)
def test_a_changed_key_shows_as_another_code_version_of_what_it_decides(
    manifest: dict[str, Any], edit: dict[str, Any], changed: list[str]
) -> None:
    def versions(defs: dg.Definitions) -> dict[str, str | None]:
        return {asset: spec_of(defs, "note", asset).code_version for asset in ASSETS}

    before, after = versions(load()), versions(load_edited(manifest, edit))
    assert [asset for asset in ASSETS if before[asset] != after[asset]] == changed


def test_another_default_model_shows_as_another_code_version_of_the_vectors(project: Path) -> None:
    def version(**settings: Any) -> str | None:
        return spec_of(load(**settings), "note", "vectors").code_version

    assert version() != version(embedding_model="fake/other")


@pytest.mark.parametrize(
    ("enabled", "status"),
    [(True, dg.DefaultScheduleStatus.RUNNING), (False, dg.DefaultScheduleStatus.STOPPED)],
)
def test_schedules_are_on_unless_embedding_is_off(
    project: Path, enabled: bool, status: dg.DefaultScheduleStatus
) -> None:
    schedules = load(embedding_enabled=enabled).get_repository_def().schedule_defs
    assert {s.name: s.cron_schedule for s in schedules} == {
        "note_embeddings_schedule": "0 2 * * *",
        "event_embeddings_schedule": "0 */6 * * *",
        "marts_schedule": "0 4 * * *",
    }
    assert {s.default_status for s in schedules} == {status}


def test_a_wrong_declaration_fails_its_own_job_and_lets_the_others_load(
    manifest: dict[str, Any],
) -> None:
    good = load().get_repository_def()
    defs = load_edited(manifest, {"colour": "red"})
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
    manifest: dict[str, Any], name: str
) -> None:
    defs = load_edited(manifest, {"entity": name, "limit": 0})
    repository = defs.get_repository_def()
    assert repository.has_job("event_embeddings")
    assert repository.has_job("note_embeddings") == (name == "note")


def test_what_dagster_refuses_of_an_entity_fails_it_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embeddings_pipeline.assets import automation

    made = automation.entity_schedule

    def refused(entity: Any, *arguments: Any) -> Any:
        if entity.name == "note":
            raise dg.DagsterInvalidDefinitionError("no such thing")
        return made(entity, *arguments)

    monkeypatch.setattr(automation, "entity_schedule", refused)
    defs = load()
    assert spec_of(defs, "note", "texts").description == "no such thing"
    assert spec_of(defs, "event", "texts").description != "no such thing"


@pytest.mark.parametrize(
    ("meta", "owners"),
    [
        ({"owners": ["nobody", "team:data", "a@example.com"]}, ["team:data", "a@example.com"]),
        ({"owners": 5}, []),
        ({"owners": []}, []),
    ],
)
def test_what_dagster_refuses_of_a_model_is_left_out(
    manifest: dict[str, Any], meta: Any, owners: list[str]
) -> None:
    node = manifest["nodes"]["model.notes.stg_note"]
    node["config"]["meta"]["dagster"] = node["meta"]["dagster"] = meta
    defs = load_edited(manifest, {})
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


def test_in_development_the_project_is_parsed_each_time_that_it_is_loaded(
    project: Path, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = manifest["nodes"]["model.notes.stg_event"]
    event["meta"] = event["config"]["meta"] = {}
    assert not load_edited(manifest, {}).get_repository_def().has_job("event_embeddings")
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    assert load().get_repository_def().has_job("event_embeddings")


def test_with_a_manifest_of_the_teams_only_the_entities_are_there(
    project: Path, manifest: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    repository = load(dbt_manifest=tmp_path / "manifest.json").get_repository_def()
    assert repository.has_job("note_embeddings")
    assert not repository.has_job("staging")


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"dbt_project_dir": tmp_path})
    with pytest.raises(ConfigurationError, match="holds no dbt project"):
        dbt_command.parse(settings)


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


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Cannot resolve 'm'"),
        SyntaxError("Expecting ).\n  select regexp_matches(name, 'a' from x"),
        RecursionError("maximum recursion depth exceeded"),
        KeyError("model.notes.stg_note"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_columns_that_cannot_be_derived_are_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    from embeddings_pipeline.assets.project import short_warnings

    logger = dg.get_dagster_logger()
    with short_warnings(), caplog.at_level("WARNING"):
        try:
            raise error
        except type(error):
            logger.warning("No lineage of stg_note.\n\nException: %s", error, exc_info=True)
        logger.warning("two\nlines")
    assert [record.getMessage() for record in caplog.records] == [
        "No lineage of stg_note.",
        "two\nlines",
    ]
    assert "Traceback" not in caplog.text
