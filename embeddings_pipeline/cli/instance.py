"""The Dagster instance that commands use: dagster.yaml, in a folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import PROJECT_DIR, Settings


def prepare(settings: Settings) -> Path:
    """Set DAGSTER_HOME unless it is set, to a folder beside the embedded Postgres; returns it."""
    home = settings.dagster_home
    if home is None:
        home = settings.embedded_data_dir / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_DIR / "dagster.yaml", home)
    if not home.is_dir():
        raise ConfigurationError(f"DAGSTER_HOME {str(home)!r} is not a folder: create it")
    os.environ["DAGSTER_HOME"] = str(home.resolve())
    return home
