"""The Python of which `make` makes `.venv`: one that is supported, wherever it is called so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support import CHECKOUT

# as pyenv has for each version, whether or not it is chosen
SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
OTHER = """#!/bin/sh
exec {python} -c 'import sys; sys.version_info = {version}; exec(sys.argv.pop())' "$2"
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `make` says that it would do without `.venv`, with the programs of the folder alone."""
    program = shutil.which("make")
    assert program
    shutil.copy(CHECKOUT / "Makefile", folder)
    (folder / "sh").symlink_to("/bin/sh")
    return subprocess.run(
        [program, "-n", ".venv/bin/pip", *arguments],
        cwd=folder,
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
    )


def test_make_takes_the_first_python_that_works(tmp_path: Path) -> None:
    write_program(tmp_path / "python3.11", SHIM)
    for name in ("python3.13", "python3"):
        (tmp_path / name).symlink_to(sys.executable)
    assert make(tmp_path).stdout == "python3.13 -m venv .venv\n"


def test_make_takes_the_python_that_it_is_told(tmp_path: Path) -> None:
    told = make(tmp_path, "PYTHON=/opt/python")
    assert told.stdout == "/opt/python -m venv .venv\n"


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0)])
def test_make_without_a_python_says_in_a_line_what_it_wants(
    tmp_path: Path, version: tuple[int, ...]
) -> None:
    write_program(tmp_path / "python3", OTHER.format(python=sys.executable, version=version))
    found = make(tmp_path)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert "none of python3.11 python3.12 python3.13 python3 is a Python 3.11 to 3.13" in line
    assert "make demo PYTHON=/path/to/python" in line


def test_the_pythons_of_make_are_those_that_the_package_names_and_ci_tries() -> None:
    (line,) = re.findall(r"^PYTHONS := (.+)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    versions = [name.removeprefix("python") for name in line.split()][:-1]
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    classifiers = [name.rpartition(" :: ")[2] for name in project["classifiers"] if "3." in name]
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "ci.yml").read_text())
    assert versions == classifiers == workflow["jobs"]["ci"]["strategy"]["matrix"]["python"]
