"""A run reads what its dbt build built, whatever the models, their schema and the declarations
depend on; `plan` and `--no-dbt` say what they read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline import dbt_command
from embeddings_pipeline.cli.main import app
from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.manifest import manifest_path
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from tests.support.databases import Templates, copy_of
from tests.support.environment import only_settings
from tests.support.foreign import environment, write

pytestmark = [pytest.mark.long]

PROFILE = """
    diary:
      target: dev
      outputs:
        dev: &database
          type: postgres
          host: "{{ env_var('ACME_HOST') }}"
          port: "{{ env_var('ACME_PORT') | as_number }}"
          dbname: "{{ env_var('ACME_DATABASE') }}"
          user: "{{ env_var('ACME_USER') }}"
          password: "{{ env_var('ACME_PASSWORD') }}"
          schema: "{{ env_var('MY_SCHEMA', 'one') }}"
          threads: 1
        prod:
          <<: *database
          schema: production
"""
PROJECT = {
    "dbt/dbt_project.yml": """
        name: diary
        version: "1.0"
        profile: diary
        models: {diary: {+materialized: table}}
    """,
    "dbt/models/base_note.sql": "{{ config(materialized='view') }} select * from raw.notes",
    "dbt/models/stg_note.sql": "select id, title, body from {{ ref('base_note') }}",
    "dbt/models/stg_note.yml": """
        models:
          - name: stg_note
            config:
              meta:
                embeddings: {id: id}
                embedding:
                  id: id
                  include: ["{{ env_var('NOTE_TEXT', 'title') }}"]
                  partitions: {count: 1}
                  index: none
    """,
    "profiles/profiles.yml": PROFILE,
}


class Diary:
    """The project and its database."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    def document(self, *arguments: str) -> Any:
        result = self.command(*arguments, "--json")
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    def texts(self) -> list[str]:
        with psycopg.connect(self.database.url) as connection:
            rows = connection.execute("select text from analytics_features.note_texts order by id")
            return [text for (text,) in rows]

    def update(self, title: str) -> None:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute("update raw.notes set title = %s where id = 1", (title,))


@pytest.fixture(scope="module")
def diary(
    templates: Templates, dbt: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Diary]:
    folder = tmp_path_factory.mktemp("diary")
    write(folder, PROJECT)
    with pytest.MonkeyPatch.context() as patch, copy_of(templates.empty) as database:
        only_settings(
            patch,
            **environment(database),
            DBT_PROJECT_DIR=str(folder / "dbt"),
            DBT_PROFILES_DIR=str(folder / "profiles"),
            EMBEDDED_DATA_DIR=str(folder / "data"),
        )
        patch.setattr(dbt_command, "executable", lambda: str(dbt))
        patch.chdir(folder)
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("create schema raw")
            connection.execute("create table raw.notes (id int, title text, body text)")
            connection.execute("insert into raw.notes values (1, 'Water', 'roses'), (2, 'Cut', '')")
        yield Diary(folder, database)


@pytest.fixture(scope="module")
def before_the_first_build(diary: Diary) -> Result:
    """The plan of a project of which dbt has built nothing."""
    return diary.command("plan")


@pytest.fixture(scope="module")
def built(diary: Diary, before_the_first_build: Result) -> Diary:
    """The project after a first run."""
    diary.document("run", "note")
    return diary


def test_the_first_plan_offers_to_build_what_is_not_built_yet(
    before_the_first_build: Result,
) -> None:
    assert before_the_first_build.exit_code == 0, before_the_first_build.exception
    message = "note: dbt has not built one.stg_note yet: `plan --dbt` builds it first"
    assert message in before_the_first_build.stderr


def test_a_misspelt_key_is_told_with_the_model_and_the_key_that_is_meant(
    before_the_first_build: Result,
) -> None:
    message = (
        "warning: model 'stg_note' (models/stg_note.yml): meta.embeddings is not read: the key is"
        " meta.embedding"
    )
    assert before_the_first_build.stderr.count(message) == 1


def test_another_schema_of_the_profile_by_the_environment_is_read_at_once(
    built: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.update("Water daily")
    # not even what the model reads is in this schema
    monkeypatch.setenv("MY_SCHEMA", "two")
    built.document("run", "note")
    assert built.texts()[0] == "title: Water daily"


def test_a_profile_outside_of_the_project_may_be_edited(built: Diary) -> None:
    profiles = built.folder / "profiles" / "profiles.yml"
    good = profiles.read_text()
    built.update("Water weekly")
    profiles.write_text(good.replace("env_var('MY_SCHEMA', 'one')", "'three'"))
    try:
        built.document("run", "note")
        assert built.texts()[0] == "title: Water weekly"
    finally:
        profiles.write_text(good)


def test_another_target_is_read_at_once(built: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
    built.update("Water rarely")
    monkeypatch.setenv("DBT_TARGET", "prod")
    built.document("run", "note")
    assert built.texts()[0] == "title: Water rarely"


def test_a_declaration_may_depend_on_the_environment(
    built: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTE_TEXT", "body")
    built.document("run", "note")
    assert built.texts()[0] == "body: roses"
    monkeypatch.undo()
    (planned,) = built.document("plan", "note")["entities"]
    assert planned["changed"] == 2


def test_a_plan_says_that_a_table_is_as_dbt_built_it_last_and_builds_it_where_it_is_asked_to(
    built: Diary,
) -> None:
    built.document("run", "note")
    built.update("Water now")
    planned = built.document("plan", "note")
    assert planned["as_last_built"] == ["note"]
    assert planned["entities"][0]["changed"] == 0
    message = "note: one.stg_note is a table, and shows its sources as they were when dbt built it"
    assert message in built.command("plan", "note").stderr
    planned = built.document("plan", "note", "--dbt")
    assert planned["as_last_built"] == []
    assert planned["entities"][0]["changed"] == 1


def test_a_plan_and_a_run_say_what_the_staging_model_reads_that_they_do_not_build_again(
    built: Diary,
) -> None:
    base = built.folder / "dbt/models/base_note.sql"
    of_view = base.read_text()
    remark = (
        "note: stg_note reads base_note, which `run` and `plan --dbt` build only where it is"
        " missing: `dbt build --select +stg_note` brings it up to date"
    )
    assert remark not in built.command("plan", "note").stderr
    try:
        base.write_text("{{ config(materialized='table') }} select * from raw.notes")
        assert remark in built.command("plan", "note", "--dbt").stderr
        assert remark in built.command("run", "note").stderr
    finally:
        base.write_text(of_view)


@pytest.mark.parametrize(
    ("materialized", "as_last_built"),
    [
        ("incremental", ["note"]),
        ("materialized_view", ["note"]),
        ("a_materialization_of_the_team", ["note"]),
        ("view", []),
    ],
)
def test_whatever_is_no_view_is_as_dbt_built_it_last(
    built: Diary, monkeypatch: pytest.MonkeyPatch, materialized: str, as_last_built: list[str]
) -> None:
    manifest = json.loads(manifest_path(Settings.load()).read_bytes())
    manifest["nodes"]["model.diary.stg_note"]["config"]["materialized"] = materialized
    given = built.folder / "of_another_kind.json"
    given.write_text(json.dumps(manifest))
    monkeypatch.setenv("DBT_MANIFEST", str(given))
    assert built.document("plan", "note")["as_last_built"] == as_last_built


def test_a_manifest_that_is_given_is_read_and_nothing_is_built(
    built: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_MANIFEST", str(built.folder / "none.json"))
    result = built.command("run", "note")
    assert isinstance(result.exception, ConfigurationError)
    assert str(built.folder / "none.json") in str(result.exception)
    monkeypatch.undo()
    given = built.folder / "given.json"
    given.write_bytes(manifest_path(Settings.load()).read_bytes())
    monkeypatch.setenv("DBT_MANIFEST", str(given))
    monkeypatch.setenv("DBT_PROJECT_DIR", str(built.folder / "gone"))
    assert built.document("run", "note")["entity"] == "note"


def test_nothing_is_written_into_the_dbt_project(built: Diary) -> None:
    found = {str(p.relative_to(built.folder)) for p in (built.folder / "dbt").rglob("*.*")}
    assert found == {name for name in PROJECT if name.startswith("dbt/")}


def test_two_schemas_of_vectors_keep_two_manifests(
    built: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = manifest_path(Settings.load())
    monkeypatch.setenv("PGVECTOR_SCHEMA", "features_eu")
    assert manifest_path(Settings.load()) != one
