"""The package as others install it: from a wheel, with the libraries of the chosen extras alone.

Libraries are linked from the environment of the tests, so that nothing is downloaded.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import CHECKOUT
from tests.support.environment import VARIABLES

_NAME = "embeddings-pipeline"
_SCRIPT = """#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""


def build_wheel(folder: Path) -> Path:
    """The checkout's wheel in a folder that processes share. The first one builds it, by way of a
    source distribution as `make dist` does."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder))
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            done = subprocess.run([*command, str(CHECKOUT)], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


class Installed:
    """An environment that holds the wheel, and what it requires with these extras."""

    def __init__(self, folder: Path, wheel: Path, *extras: str) -> None:
        venv.create(folder, symlinks=True)
        self.programs = folder / "bin"
        (self.site_packages,) = folder.glob("lib/python*/site-packages")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site_packages)
        # as pip does
        compileall.compile_dir(self.package, quiet=1)
        (own,) = self.site_packages.glob("embeddings_pipeline-*.dist-info")
        mine = PathDistribution(own)
        self._add_scripts(mine)
        for library in _required(mine, extras):
            self._link(library)
            self._add_scripts(library)

    @property
    def package(self) -> Path:
        """The folder of the package."""
        return self.site_packages / "embeddings_pipeline"

    def run(
        self, program: str, *arguments: str, cwd: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder, with none of our settings but these."""
        return subprocess.run(
            [self.programs / program, *arguments],
            cwd=cwd,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """The variables of a process in the environment."""
        ours = VARIABLES | {"PYTHONPATH", "VIRTUAL_ENV"}
        others = {name: value for name, value in os.environ.items() if name not in ours}
        path = f"{self.programs}{os.pathsep}{others['PATH']}"
        return {**others, "PATH": path, "HF_HUB_OFFLINE": "1", **variables}

    def _link(self, library: Distribution) -> None:
        for part in {file.parts[0] for file in library.files or ()}:
            link = self.site_packages / part
            if part not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(Path(str(library.locate_file(part))))

    def _add_scripts(self, library: Distribution) -> None:
        for entry in library.entry_points.select(group="console_scripts"):
            script = self.programs / entry.name
            function = entry.attr.partition(".")[0]
            python = self.programs / "python"
            script.write_text(_SCRIPT.format(python=python, module=entry.module, function=function))
            script.chmod(0o755)


def _required(library: Distribution, extras: tuple[str, ...]) -> Iterator[Distribution]:
    """All that a distribution requires, directly or not; each once."""
    seen: set[tuple[str, str]] = set()
    waiting = [(library, extra) for extra in ("", *extras)]
    while waiting:
        wanted, extra = waiting.pop()
        key = (canonicalize_name(wanted.metadata["Name"]), extra)
        if key in seen:
            continue
        seen.add(key)
        if key[0] != _NAME:
            yield wanted
        for line in wanted.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                found = library if requirement.name == _NAME else distribution(requirement.name)
                waiting += [(found, further) for further in ("", *requirement.extras)]
