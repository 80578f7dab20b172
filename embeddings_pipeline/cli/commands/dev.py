"""`embeddings-pipeline dev`: the Dagster UI, on the data of the other commands."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from embeddings_pipeline.cli import dagster_instance, output
from embeddings_pipeline.dbt_command import parse
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings, project_dir

_MODULE = "embeddings_pipeline.definitions"


def dev(
    port: Annotated[int, typer.Option(help="The port.")] = 3000,
    host: Annotated[str, typer.Option(help="The address; the UI has no password.")] = "127.0.0.1",
) -> None:
    """Start the Dagster UI, and the daemon that runs the schedules."""
    settings = Settings.load()
    dagster = Path(sys.executable).with_name("dagster")
    if not dagster.exists() or not dagster_instance.is_possible():
        raise ConfigurationError(
            "Dagster is not installed: pip install 'embeddings-pipeline[dagster]'"
        )
    if settings.dbt_manifest is None:
        # an error in the project is one line here; Dagster would print a page of traceback
        parse(settings)
    with dagster_instance.opened(settings):
        pass
    workspace = project_dir() / "workspace.yaml"
    location = ["-w", str(workspace)] if workspace.exists() else ["-m", _MODULE]
    output.print_message(f"Dagster UI: http://{host}:{port}")
    # a shell lets what it starts in the background ignore SIGINT, and Dagster treats SIGTERM alike
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = ["dev", *location, "-h", host, "-p", str(port)]
    os.execv(dagster, [str(dagster), *arguments])  # noqa: S606 - our own arguments
