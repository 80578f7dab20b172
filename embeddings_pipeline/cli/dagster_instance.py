"""The Dagster instance of the commands: a folder with a dagster.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.settings import Settings, project_dir

if TYPE_CHECKING:
    import dagster as dg

_POSTGRES = """
storage:
  postgres:
    postgres_url:
      env: DAGSTER_POSTGRES_URL
"""


def is_configured(settings: Settings) -> bool:
    """Whether there is an instance to which runs are reported: DAGSTER_HOME, or the project's own,
    which `demo`, `dev` and `run --dagster` make."""
    written = (settings.dagster_folder / "dagster.yaml").exists()
    return (settings.dagster_home is not None or written) and is_possible()


def is_possible() -> bool:
    """Whether Dagster is installed."""
    return find_spec("dagster") is not None


def prepare(settings: Settings) -> Path:
    """Set DAGSTER_HOME unless it is set, to a folder beside the embedded Postgres; returns it.

    That folder gets the project's dagster.yaml, or the package's. Runs and events are in SQLite
    files there, or in Postgres at DAGSTER_POSTGRES_URL.
    """
    if settings.dagster_postgres_url:
        # SQLAlchemy would choose psycopg 3, with which dagster-postgres does not work
        url = settings.dagster_postgres_url.get_secret_value()
        os.environ["DAGSTER_POSTGRES_URL"] = re.sub(
            r"^postgres(ql)?://", "postgresql+psycopg2://", url
        )
    home = settings.dagster_folder
    if settings.dagster_home is None:
        home.mkdir(parents=True, exist_ok=True)
        config = _dagster_yaml().read_text()
        if settings.dagster_postgres_url and not re.search(r"^storage:", config, re.MULTILINE):
            config += _POSTGRES
        write_atomically(home / "dagster.yaml", config)
    if not home.is_dir():
        raise ConfigurationError(f"DAGSTER_HOME {str(home)!r} is not a folder: create it")
    os.environ["DAGSTER_HOME"] = str(home.resolve())
    return home


@contextmanager
def opened(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance for a block of work. Runs without a process are closed, and the pool of runs
    that encode gets its limit, which Dagster itself would set after the first of them."""
    prepare(settings)
    import dagster as dg

    from embeddings_pipeline.assets.options import POOL
    from embeddings_pipeline.resources.orphaned_runs import close_orphaned_runs

    with dg.DagsterInstance.get() as runs:
        # in a database that others share, a run may belong to another machine
        close_orphaned_runs(runs, lambda run: settings.dagster_postgres_url is None)
        runs.event_log_storage.initialize_concurrency_limit_to_default(POOL)
        yield runs


def _dagster_yaml() -> Path:
    own = project_dir() / "dagster.yaml"
    template = Path(str(files("embeddings_pipeline"))) / "templates" / "project" / "dagster.yaml"
    return own if own.exists() else template
