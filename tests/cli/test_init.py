"""`init`: a project to start from. tests/test_wheel.py runs one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.main import app
from embeddings_pipeline.errors import ConfigurationError

FILES = {
    *(".env", ".gitignore", "README.md"),
    *("dagster.yaml", "pyproject.toml", "workspace.yaml"),
    *("definitions.py", "defs/__init__.py"),
    *("dbt_project/dbt_project.yml", "dbt_project/profiles.yml"),
    *("dbt_project/seeds/raw_articles.csv", "dbt_project/seeds/raw_articles.yml"),
    "dbt_project/models/staging/stg_article.sql",
    "dbt_project/models/staging/stg_article.yml",
}


def init(folder: Path | str) -> Result:
    return CliRunner().invoke(app, ["init", str(folder)])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def refusal(folder: Path | str) -> str:
    result = init(folder)
    assert isinstance(result.exception, ConfigurationError)
    return str(result.exception)


def test_a_new_project_has_the_files_of_one_and_its_name_in_them(tmp_path: Path) -> None:
    result = init(tmp_path / "My shop")
    assert result.exit_code == 0, result.exception
    project = tmp_path / "My shop"
    assert files(project) == FILES
    assert [file for file in FILES if "$" in (project / file).read_text()] == []
    assert len((project / "README.md").read_text().splitlines()) <= 12
    described = tomllib.loads((project / "pyproject.toml").read_text())
    assert described["project"]["name"] == "my_shop"
    dbt_project = yaml.safe_load((project / "dbt_project" / "dbt_project.yml").read_text())
    profiles = yaml.safe_load((project / "dbt_project" / "profiles.yml").read_text())
    assert dbt_project["name"] == dbt_project["profile"] == "my_shop"
    assert {"my_shop"} == {*profiles} == {*dbt_project["models"]}


@pytest.mark.parametrize(
    ("folder", "name"),
    [("search-2", "search_2"), ("2026", "project_2026"), ("книги", "project"), ("A.b", "a_b")],
)
def test_the_name_of_a_project_is_an_identifier_like_its_folder_s(
    tmp_path: Path, folder: str, name: str
) -> None:
    assert init(tmp_path / folder).exit_code == 0
    assert (tmp_path / folder / "README.md").read_text().startswith(f"# {name}\n")


def test_an_empty_working_directory_becomes_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init(".").exit_code == 0
    assert files(tmp_path) == FILES


def test_a_folder_with_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refusal(tmp_path).endswith("is not empty: name one that is new, or empty")
    assert files(tmp_path) == {"notes.txt"}


def test_a_file_is_refused_and_so_is_what_would_be_below_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file: name a folder" in refusal(tmp_path / "file")
    assert "cannot write a project to" in refusal(tmp_path / "file" / "shop")


def test_the_settings_of_a_new_project_are_the_defaults(tmp_path: Path) -> None:
    init(tmp_path / "shop")
    lines = (tmp_path / "shop" / ".env").read_text().splitlines()
    assert lines
    assert [line for line in lines if line and not line.startswith("#")] == []
