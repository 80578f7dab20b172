"""The Dagster instance that commands use: dagster.yaml, in a folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import PROJECT_DIR, Settings


def prepare(settings: Settings) -> Path:
    """Set DAGSTER_HOME unless it is set, to a folder beside the embedded Postgres; returns it."""
    if given := os.environ.get("DAGSTER_HOME"):
        if not Path(given).is_dir():
            raise ConfigurationError(f"DAGSTER_HOME {given!r} is not a folder: create it")
        return Path(given)
    home = settings.embedded_data_dir.resolve() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROJECT_DIR / "dagster.yaml", home)
    os.environ["DAGSTER_HOME"] = str(home)
    return home
