"""The dbt command: its environment, its folders, and what its results mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from embeddings_pipeline.dbt_command import (
    Build,
    environment,
    profiles_dir,
    scratch,
    variables,
)
from embeddings_pipeline.entities.manifest import manifest_path, target_dir
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings


def settings(project: Path, **given: Any) -> Settings:
    data = project.parent / "data"
    return Settings(_env_file=None, dbt_project_dir=project, embedded_data_dir=data, **given)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "dbt_project.yml").write_text("name: shop")
    return tmp_path / "shop"


def test_the_profile_finds_a_database_that_is_configured_by_url(project: Path) -> None:
    url = SecretStr("postgresql://me:s%40crt@db.example:5433/shop")
    configured = settings(project, staging_db_url=url, pgvector_url=url, pgvector_schema="features")
    assert environment(configured, configured.staging_database) == {
        "STAGING_DB_HOST": "db.example",
        "STAGING_DB_PORT": "5433",
        "STAGING_DB_NAME": "shop",
        "STAGING_DB_USER": "me",
        "STAGING_DB_PASSWORD": "s@crt",
        "PGVECTOR_SCHEMA": "features",
    }


def test_without_a_database_only_the_schema_is_told(project: Path) -> None:
    assert environment(settings(project), None) == {"PGVECTOR_SCHEMA": "analytics_features"}


def test_profiles_are_the_given_ones_or_the_projects_or_those_of_the_user(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles_dir(settings(project)) is None
    (tmp_path / ".dbt").mkdir()
    (tmp_path / ".dbt" / "profiles.yml").touch()
    assert profiles_dir(settings(project)) == tmp_path / ".dbt"
    (project / "profiles.yml").touch()
    assert profiles_dir(settings(project)) == project
    given = settings(project, dbt_profiles_dir=tmp_path / "etc")
    assert profiles_dir(given) == tmp_path / "etc"


def test_a_user_without_a_home_has_no_profiles_there(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    # a number without an account, as containers are started with
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert profiles_dir(settings(project)) is None


@pytest.mark.parametrize(
    ("given", "one"), [({}, True), ({"staging_db_host": "a", "pgvector_host": "b"}, False)]
)
def test_marts_are_told_whether_vectors_are_in_their_database(
    project: Path, given: dict[str, str], one: bool
) -> None:
    assert json.loads(variables(settings(project, **given))[1]) == {
        "vectors_in_staging_database": one
    }


def test_what_dbt_learned_of_a_project_is_kept_for_the_next_command(project: Path) -> None:
    with scratch(settings(project)) as folder:
        (folder / "partial_parse.msgpack").write_bytes(b"learned")
        (folder / "manifest.json").write_text("{}")
    assert not folder.exists()
    with scratch(settings(project)) as folder:
        assert [path.name for path in folder.iterdir()] == ["partial_parse.msgpack"]
    assert manifest_path(settings(project)).read_text() == "{}"


def test_the_manifest_is_the_one_that_dbt_wrote_last_unless_one_is_given(project: Path) -> None:
    own = target_dir(settings(project)) / "manifest.json"
    by_hand = project / "target" / "manifest.json"
    for written, path in enumerate((own, by_hand, own)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (written, written))
        assert manifest_path(settings(project)) == path
    given = settings(project, dbt_manifest=project / "given.json")
    assert manifest_path(given) == project / "given.json"


@pytest.mark.parametrize("other", [{"dbt_target": "prod"}, {"pgvector_schema": "features"}])
def test_deployments_that_share_a_project_keep_manifests_of_their_own(
    project: Path, other: dict[str, str]
) -> None:
    assert target_dir(settings(project)) != target_dir(settings(project, **other))


def test_a_folder_that_cannot_be_written_to_is_told(project: Path) -> None:
    blocked = settings(project)
    blocked.embedded_data_dir.write_text("a file")
    with pytest.raises(ConfigurationError, match="set EMBEDDED_DATA_DIR"), scratch(blocked):
        pass


NODES: dict[str, Any] = {
    "model.shop.base": {"name": "base"},
    "model.shop.stg_shoe": {"name": "stg_shoe"},
    "test.shop.unique_shoe": {"depends_on": {"nodes": ["model.shop.stg_shoe"]}},
    "test.shop.shoe_of_base": {
        "depends_on": {"nodes": ["model.shop.base", "model.shop.stg_shoe"]},
        "attached_node": "model.shop.stg_shoe",
    },
}


def problem(**statuses: str) -> str | None:
    """What is wrong with the model `stg_shoe` after these results."""
    ids = {name.split(".")[2]: name for name in NODES}
    results = {
        ids[name]: {"status": status, "message": f"no {name}", "failures": 2}
        for name, status in statuses.items()
    }
    parents = {"model.shop.stg_shoe": ["model.shop.base"]}
    build = Build({"nodes": NODES, "parent_map": parents}, results, "dbt's output")
    return build.problem("model.shop.stg_shoe")


def test_a_model_that_was_built_and_whose_tests_pass_has_no_problem() -> None:
    assert problem(stg_shoe="success", unique_shoe="pass", shoe_of_base="warn") is None


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ({}, "dbt did not build it: dbt's output"),
        ({"stg_shoe": "error"}, "dbt: stg_shoe: no stg_shoe"),
        ({"base": "error", "stg_shoe": "skipped"}, "dbt: base: no base"),
        (
            {"stg_shoe": "success", "unique_shoe": "fail"},
            "dbt test unique_shoe failed (2 rows)",
        ),
        (
            {"stg_shoe": "success", "shoe_of_base": "fail"},
            "dbt test shoe_of_base failed (2 rows)",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_told_with_the_reason(
    statuses: dict[str, str], message: str
) -> None:
    assert problem(**statuses) == message
