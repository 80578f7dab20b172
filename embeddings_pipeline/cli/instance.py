"""The Dagster instance of the commands: a folder with a dagster.yaml."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings, project_dir


def is_configured(settings: Settings) -> bool:
    """Whether there is an instance to which runs are reported: DAGSTER_HOME, or the project's own,
    which `demo`, `dev` and a run that builds dbt models make."""
    return settings.dagster_home is not None or (_own(settings) / "dagster.yaml").exists()


def _own(settings: Settings) -> Path:
    return settings.embedded_data_dir / "dagster"


def prepare(settings: Settings) -> Path:
    """Set DAGSTER_HOME unless it is set, to a folder beside the embedded Postgres; returns it."""
    home = settings.dagster_home
    if home is None:
        home = _own(settings)
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(project_dir() / "dagster.yaml", home)
    if not home.is_dir():
        raise ConfigurationError(f"DAGSTER_HOME {str(home)!r} is not a folder: create it")
    os.environ["DAGSTER_HOME"] = str(home.resolve())
    return home
