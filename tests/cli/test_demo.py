"""`demo`: the example project in a folder of its own."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline import dbt_command
from embeddings_pipeline.cli.commands import demo as module
from embeddings_pipeline.cli.commands.init import write_project
from embeddings_pipeline.cli.main import app
from embeddings_pipeline.errors import ConfigurationError
from tests.conftest import new_data_dir, remove_data_dir
from tests.support import CHECKOUT
from tests.support.environment import only_settings

# dbt and Dagster warn of themselves
pytestmark = pytest.mark.filterwarnings("ignore")

EXAMPLE = CHECKOUT / "dbt_project"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: an empty folder that the embedded server's user can enter."""
    folder = new_data_dir()
    only_settings(monkeypatch)
    monkeypatch.chdir(folder)
    data_dir = new_data_dir()
    monkeypatch.setenv("EMBEDDED_DATA_DIR", str(data_dir))
    yield folder
    remove_data_dir(data_dir)
    shutil.rmtree(folder)


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["demo", *arguments])


def keep_rows(project: Path, count: int) -> None:
    """Leave a few rows of each seed, and only what belongs to the clips that are left."""
    seeds = project / "dbt_project" / "seeds"
    clips: set[str] = set()
    for seed in sorted(seeds.glob("*.csv"), key=lambda seed: seed.stem != "raw_clips"):
        with seed.open(newline="") as file:
            rows = [*csv.DictReader(file)]
        clips = clips or {row["clip_id"] for row in rows[:count]}
        kept = [row for row in rows if row.get("clip_id") in {None, *clips}]
        with seed.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(kept[:count])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_embeds_five_entities_and_searches_three(
    folder: Path, dbt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbt_command, "executable", lambda: str(dbt))
    write_project(folder / "try", "example")
    keep_rows(folder / "try", 5)
    result = demo("try")
    assert result.exit_code == 0, result.exception
    for entity in ("clip", "frame", "instruction", "product", "transcript"):
        (line,) = [line for line in result.stdout.splitlines() if f"│ {entity} " in line]
        assert "100 %" in line
    assert "\nproduct: edit photos\n  0." in result.stdout
    assert "instruction: tidy up the dishes\n  0." in result.stdout


def test_the_example_project_is_the_repository_s(folder: Path) -> None:
    write_project(folder / "try", "example")
    written = folder / "try" / "dbt_project"
    found = {path.relative_to(written) for path in written.rglob("*") if path.is_file()}
    assert {Path("seeds/raw_products.csv"), Path("models/marts/_sources.yml")} <= found
    for path in found:
        assert (written / path).read_bytes() == (EXAMPLE / path).read_bytes()


@pytest.mark.parametrize(
    ("where", "given", "entered"),
    [
        (".", None, "embeddings_demo"),
        (".", Path("mine"), "mine"),
        ("there", None, "there"),
        ("there/dbt_project/models", None, "there"),
    ],
)
def test_the_demo_is_the_example_around_the_working_directory_or_a_new_folder(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    given: Path | None,
    entered: str,
) -> None:
    write_project(folder / "there", "example")
    monkeypatch.chdir(folder / where)
    settings = module._enter(given)
    assert Path.cwd() == folder / entered
    assert settings.dbt_project_dir == folder / entered / "dbt_project"


def test_a_folder_with_other_files_is_refused(folder: Path) -> None:
    write_project(folder / "shop", "starter")
    result = demo("shop")
    assert isinstance(result.exception, ConfigurationError)
    assert "is not empty" in str(result.exception)


def test_the_demo_does_not_run_another_dbt_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_PROJECT_DIR", str(folder / "theirs"))
    result = demo()
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception).endswith("unset it to run the demo")
