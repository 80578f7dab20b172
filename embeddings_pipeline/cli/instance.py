"""The Dagster instance that commands use: DAGSTER_HOME and DAGSTER_POSTGRES_URL, where not set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import yaml

from embeddings_pipeline.settings import PROJECT_DIR, Settings
from embeddings_pipeline.store import embedded

# the event log gets a dozen commits a step; those of the last moment before a crash may go
_OPTIONS = "?options=-csynchronous_commit%3Doff"


def prepare(settings: Settings) -> Path:
    """Set what Dagster needs in this process' environment; returns DAGSTER_HOME.

    Without DAGSTER_POSTGRES_URL runs are kept in the embedded Postgres, or, where a database is
    configured, in SQLite files in DAGSTER_HOME: nobody asked for tables in that database.
    """
    if settings.vectors_database is None and not os.environ.get("DAGSTER_POSTGRES_URL"):
        server = embedded.start(settings.embedded_data_dir)
        url = replace(server, name=embedded.DAGSTER_DATABASE).url
        # SQLAlchemy would choose psycopg 3, with which dagster-postgres does not work
        url = url.replace("postgresql://", "postgresql+psycopg2://", 1)
        os.environ["DAGSTER_POSTGRES_URL"] = url + _OPTIONS
    if given := os.environ.get("DAGSTER_HOME"):
        return Path(given)
    home = settings.embedded_data_dir / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(_configuration())
    os.environ["DAGSTER_HOME"] = str(home.resolve())
    return home


def _configuration() -> str:
    text = (PROJECT_DIR / "dagster.yaml").read_text()
    if os.environ.get("DAGSTER_POSTGRES_URL"):
        return text
    configuration = yaml.safe_load(text)
    del configuration["storage"]
    return str(yaml.safe_dump(configuration))
