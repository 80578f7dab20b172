"""Options and environment of dbt commands, and the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from embeddings_pipeline.resources.dbt_project import environment, options, scratch
from embeddings_pipeline.settings import Settings


def settings(project: Path, **given: object) -> Settings:
    return Settings(_env_file=None, dbt_project_dir=project, **given)  # type: ignore[arg-type]


def test_the_profile_finds_a_database_that_is_configured_by_url(tmp_path: Path) -> None:
    url = SecretStr("postgresql://me:s%40crt@db.example:5433/shop")
    configured = settings(
        tmp_path, staging_db_url=url, pgvector_url=url, pgvector_schema="features"
    )
    assert environment(configured, configured.staging_database) == {
        "STAGING_DB_HOST": "db.example",
        "STAGING_DB_PORT": "5433",
        "STAGING_DB_NAME": "shop",
        "STAGING_DB_USER": "me",
        "STAGING_DB_PASSWORD": "s@crt",
        "PGVECTOR_SCHEMA": "features",
    }


def test_without_a_database_only_the_schema_is_told(tmp_path: Path) -> None:
    assert environment(settings(tmp_path), None) == {"PGVECTOR_SCHEMA": "analytics_features"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["--project-dir", "--profiles-dir", "--target-path", "--log-path", "--vars"]),
        ({"dbt_target": "prod"}, ["--target"]),
        ({"dbt_profiles_dir": Path("/etc/dbt")}, ["--profiles-dir"]),
    ],
)
def test_a_teams_own_project_profiles_and_target_are_used(
    tmp_path: Path, given: dict[str, object], expected: list[str]
) -> None:
    (tmp_path / "profiles.yml").touch()
    found = options(settings(tmp_path, **given), tmp_path)
    assert set(expected) <= set(found)
    assert all(str(value) in found for value in given.values())
    assert '{"vectors_in_staging_database": true}' in found


def test_without_profiles_of_its_own_dbt_looks_where_it_always_does(tmp_path: Path) -> None:
    assert "--profiles-dir" not in options(settings(tmp_path), tmp_path)


def test_marts_are_told_that_vectors_are_in_another_database(tmp_path: Path) -> None:
    two = settings(tmp_path, staging_db_host="a.example", pgvector_host="b.example")
    assert '{"vectors_in_staging_database": false}' in options(two, tmp_path)


def test_what_dbt_learned_of_a_project_is_kept_for_the_next_command(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with scratch(settings(tmp_path)) as folder:
        (folder / "partial_parse.msgpack").write_bytes(b"learned")
    assert not folder.exists()
    with scratch(settings(tmp_path)) as folder:
        assert (folder / "partial_parse.msgpack").read_bytes() == b"learned"
