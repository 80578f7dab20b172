"""A dbt project of one's own on the embedded server, built by hand as docs/dbt.md says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import new_data_dir, remove_data_dir
from tests.support.environment import VARIABLES
from tests.support.notes import PROJECT

pytestmark = pytest.mark.long


@pytest.fixture
def project() -> Iterator[Path]:
    """A dbt project, which is the project's folder itself."""
    folder = new_data_dir()
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True)
    (folder / ".data").mkdir()
    yield folder
    remove_data_dir(folder / ".data")
    shutil.rmtree(folder)


def test_models_that_were_built_by_hand_are_embedded(project: Path) -> None:
    # a variable without a default, which `db env` must have given
    profile = project / "profiles.yml"
    profile.write_text(profile.read_text().replace(", 'localhost'", ""))
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    programs = Path(sys.executable).parent
    script = """
        eval "$(embeddings-pipeline db env)"
        dbt build --quiet --select +path:models/staging
        embeddings-pipeline run note --no-dbt
        embeddings-pipeline search note "flour for bread"
    """
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=project,
        env={**variables, "PATH": f"{programs}{os.pathsep}{variables['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Buy flour and yeast" in done.stdout
