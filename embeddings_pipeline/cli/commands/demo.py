"""`embeddings-pipeline demo`: from an empty folder to search results."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from embeddings_pipeline.cli import dagster_instance, output
from embeddings_pipeline.cli.commands.init import write_project
from embeddings_pipeline.cli.commands.run import Runner, print_runs
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings, project_dir

_FOLDER = Path("embeddings_demo")
_DBT_PROJECT = re.compile(r"^name: embeddings_pipeline$", re.MULTILINE)
_SEARCHES = (
    ("product", "edit photos"),
    ("transcript", "how does version control merge branches"),
    ("instruction", "tidy up the dishes"),
)
_HITS = 3
_WIDTH = 100


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Where the example project is, or is to be written. By default the one around the"
            f" working directory, or ./{_FOLDER}."
        ),
    ] = None,
) -> None:
    """Seed the example tables, embed five entities and search them."""
    settings = _enter(folder)
    if dagster_instance.is_possible():
        # so that `dev` shows this run
        dagster_instance.prepare(settings)
    with output.progress() as report, Runner(settings, report) as runner:
        runs = runner.run((), {}, dbt=True, marts=True, seeds=True)
        print_runs(runs)
        runs.failures.raise_any()
        if not any(run.counts["encoded"] for run in runs):
            output.print_line("0 encoded: nothing changed")
        for entity, query in _SEARCHES:
            if entity in runner.pipeline.entities:
                _search(runner.pipeline, entity, query)


def _enter(folder: Path | None) -> Settings:
    """Make the example project the working directory, written where it is missing; returns its
    settings."""
    if folder is None:
        folder = project_dir() if _is_example(project_dir()) else _FOLDER
    if not _is_example(folder):
        write_project(folder, "example")
        output.print_message(f"the example project is in {folder}")
    os.chdir(folder)
    settings = Settings.load()
    if settings.dbt_project_dir.resolve() != Path("dbt_project").resolve():
        raise ConfigurationError(
            f"DBT_PROJECT_DIR names {str(settings.dbt_project_dir)!r}: unset it to run the demo"
        )
    return settings


def _is_example(folder: Path) -> bool:
    dbt_project = folder / "dbt_project" / "dbt_project.yml"
    return dbt_project.is_file() and bool(_DBT_PROJECT.search(dbt_project.read_text()))


def _search(pipeline: Pipeline, entity: str, query: str) -> None:
    answer = pipeline.search(entity, query, top_k=_HITS)
    output.print_line(f"\n{entity}: {query}")
    for hit in answer.results:
        output.print_line(
            f"  {hit.score:.3f}  {textwrap.shorten(hit.text, _WIDTH, placeholder=' …')}"
        )
