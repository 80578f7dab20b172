"""`embeddings-pipeline init`: a project to start from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import typer

from embeddings_pipeline.cli.output import print_message
from embeddings_pipeline.errors import ConfigurationError

_TEMPLATES = Path(str(files("embeddings_pipeline"))) / "templates"
# as a template these two would hide files, and be hidden
_DOTTED = {"env": ".env", "gitignore": ".gitignore"}
# pip compiles what it installs
_IGNORED = shutil.ignore_patterns("__pycache__", "target", "logs")


def init(
    folder: Annotated[Path, typer.Argument(help="A folder that is new, or empty.")],
) -> None:
    """Write a project to start from: a dbt project with one table, and its Dagster location."""
    name = write_project(folder, "starter")
    print_message(
        f"{name} is in {folder}. Next:\n"
        f"  cd {folder}\n"
        "  embeddings-pipeline run --all\n"
        '  embeddings-pipeline search article "I forgot my password"'
    )


def write_project(folder: Path, dbt_project: Literal["starter", "example"]) -> str:
    """Write a project with one of the package's dbt projects; returns the project's name.

    Raises ConfigurationError where the folder has files, or cannot be written to.
    """
    name = _identifier(folder.resolve().name)
    try:
        _refuse_files(folder)
        for source in (_TEMPLATES / "project", _TEMPLATES / dbt_project):
            shutil.copytree(source, folder, ignore=_IGNORED, dirs_exist_ok=True)
        for plain, dotted in _DOTTED.items():
            (folder / plain).rename(folder / dotted)
        for file in _named_files(folder):
            file.write_text(Template(file.read_text()).safe_substitute(project=name))
    except OSError as error:
        raise ConfigurationError(f"cannot write a project to {str(folder)!r}: {error}") from error
    return name


def _refuse_files(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{str(folder)!r} is a file: name a folder that is new, or empty")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigurationError(
            f"the folder {str(folder)!r} is not empty: name one that is new, or empty"
        )


def _identifier(folder: str) -> str:
    """A name for a dbt project and a Python distribution, after the name of the folder."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")
    return name if name[:1].isalpha() else f"project_{name}".strip("_")


def _named_files(folder: Path) -> Iterator[Path]:
    """The files that hold the project's name; no others, which may have dollar signs."""
    yield from (folder / "README.md", folder / "pyproject.toml", folder / "workspace.yaml")
    yield from (folder / "dbt_project").glob("*.yml")
