"""The dbt project: the options and the environment that dbt gets, and its manifest, kept fresh.

Imports neither Dagster nor dbt, so that commands which only read the manifest start quickly.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import lock, write_atomically
from embeddings_pipeline.pipeline import Pipeline, manifest_path
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded

# options of dbt itself: silent but for its events, and no calls home
FLAGS = (
    "--no-use-colors",
    "--no-version-check",
    "--no-send-anonymous-usage-stats",
    "--log-level-file=none",
)
PARTIAL_PARSE = "partial_parse.msgpack"
_MADE_FROM = "manifest.made-from"
# longer than dbt takes for a large project
_PARSE_MINUTES = 15
_SOURCES = {".sql", ".yml", ".yaml", ".md", ".py"}
# dbt writes here itself
_OUTPUTS = {"target", "logs"}


def options(settings: Settings, folder: Path) -> list[str]:
    """Options of every dbt command on this project; `folder` is where it writes."""
    project = settings.dbt_project_dir
    profiles = settings.dbt_profiles_dir
    if profiles is None and (project / "profiles.yml").exists():
        profiles = project
    variables = {"vectors_in_staging_database": Pipeline(settings).one_database}
    return [
        *("--project-dir", str(project)),
        *(("--profiles-dir", str(profiles)) if profiles else ()),
        *(("--target", settings.dbt_target) if settings.dbt_target else ()),
        *("--target-path", str(folder), "--log-path", str(folder)),
        *("--vars", json.dumps(variables)),
    ]


def environment(settings: Settings, database: Database | None) -> dict[str, str]:
    """Variables that a profile and the sources read; the password is among them.

    They name the database also where it was configured by URL, or is the embedded server.
    """
    schema = {"PGVECTOR_SCHEMA": settings.pgvector_schema}
    if database is None:
        return schema
    return schema | {
        "STAGING_DB_HOST": database.host,
        "STAGING_DB_PORT": str(database.port),
        "STAGING_DB_NAME": database.name,
        "STAGING_DB_USER": database.user,
        "STAGING_DB_PASSWORD": database.password.get_secret_value(),
    }


def prepared_manifest(settings: Settings) -> Path:
    """The path of the manifest, parsed anew where the project changed since; needs no database.

    Raises ConfigurationError with what dbt says against the project.
    """
    path = manifest_path(settings)
    wanted = _made_from(settings)
    if not _is_fresh(path, wanted):
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = f"another process is still parsing the project after {_PARSE_MINUTES} minutes"
        held = path.with_name("manifest.lock")
        with lock(held, seconds=_PARSE_MINUTES * 60, busy=busy):
            if not _is_fresh(path, wanted):
                _parse(settings, path.parent)
                write_atomically(path.with_name(_MADE_FROM), wanted)
    return path


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder for one dbt command to write to: two at once would overwrite each other's files.

    What dbt learned about the project goes there and comes back, so that only changes are parsed.
    """
    known = manifest_path(settings).with_name(PARTIAL_PARSE)
    with tempfile.TemporaryDirectory(prefix="dbt-") as name:
        folder = Path(name)
        learned = folder / PARTIAL_PARSE
        if known.exists():
            learned.write_bytes(known.read_bytes())
        yield folder
        if learned.exists():
            write_atomically(known, learned.read_bytes())


def _is_fresh(path: Path, wanted: str) -> bool:
    made_from = path.with_name(_MADE_FROM)
    return path.exists() and made_from.exists() and made_from.read_text() == wanted


def _made_from(settings: Settings) -> str:
    """A digest of all that a manifest is made from: names, sizes and times, not contents."""
    project = settings.dbt_project_dir
    if not (project / "dbt_project.yml").exists():
        raise ConfigurationError(
            f"DBT_PROJECT_DIR {str(project)!r} holds no dbt project: there is no dbt_project.yml"
        )
    parts = [*options(settings, Path()), settings.pgvector_schema]
    for folder, folders, files in os.walk(project):
        folders[:] = sorted(f for f in folders if f not in _OUTPUTS and not f.startswith("."))
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix in _SOURCES:
                stat = path.stat()
                parts.append(f"{path} {stat.st_size} {stat.st_mtime_ns}")
            elif path.suffix == ".csv":
                parts.append(str(path))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _parse(settings: Settings, target: Path) -> None:
    # dbt parses all files again when a variable of the profile changed since
    database = settings.staging_database or embedded.running(settings.embedded_data_dir)
    with scratch(settings) as folder:
        command = [sys.executable, "-m", "dbt.cli.main", *FLAGS, "--quiet", "parse"]
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            [*command, *options(settings, folder)],
            check=False,
            env={**os.environ, **environment(settings, database)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = (done.stdout.strip() or done.stderr.strip()).replace("\x1b[0m", "")
            raise ConfigurationError(
                f"dbt cannot parse the project in {settings.dbt_project_dir}:\n{said}"
            )
        write_atomically(target / "manifest.json", (folder / "manifest.json").read_bytes())
