"""`embeddings-pipeline dev`: Dagster's pages, on the data that the other commands use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from embeddings_pipeline.cli import instance, output
from embeddings_pipeline.resources.dbt_project import prepared_manifest
from embeddings_pipeline.settings import PROJECT_DIR, Settings


def dev(
    port: Annotated[int, typer.Option(help="Where to listen.")] = 3000,
    host: Annotated[str, typer.Option(help="The address; the pages ask for no password.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Open the Dagster UI, with its daemon, which runs the schedules."""
    settings = Settings.load()
    # an error in the project is one line here, and a page of them there
    prepared_manifest(settings)
    instance.prepare(settings)
    _close_abandoned(settings)
    dagster = Path(sys.executable).with_name("dagster")
    workspace = PROJECT_DIR / "workspace.yaml"
    output.say(f"Dagster UI: http://{host}:{port}")
    arguments = ["dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    os.execv(dagster, [str(dagster), *arguments])  # noqa: S606 - our own arguments


def _close_abandoned(settings: Settings) -> None:
    import dagster as dg

    from embeddings_pipeline.resources.orphaned_runs import close_abandoned

    with dg.DagsterInstance.get() as runs:
        close_abandoned(settings, runs)
