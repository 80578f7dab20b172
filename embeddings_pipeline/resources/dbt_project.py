"""The dbt project: options and environment of dbt commands, and an up-to-date manifest.

Imports neither Dagster nor dbt, so commands that only read the manifest start quickly.
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

# options of dbt itself: no output except its events, and no network calls
FLAGS = (
    "--no-use-colors",
    "--no-version-check",
    "--no-send-anonymous-usage-stats",
    "--log-level-file=none",
)
PARTIAL_PARSE = "partial_parse.msgpack"
_DIGEST = "manifest.digest"
# more than dbt needs for a large project
_PARSE_MINUTES = 15
_SOURCES = {".sql", ".yml", ".yaml", ".md", ".py"}
# dbt writes to these folders
_OUTPUTS = {"target", "logs"}


def options(settings: Settings, folder: Path) -> list[str]:
    """Options of every dbt command on this project; the command writes to `folder`."""
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
    """Variables that a profile and the sources read, among them the password.

    They name the database also where it is configured by URL, or is the embedded server.
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
    """The path of the manifest, parsed again where the project changed since; needs no database.

    Raises ConfigurationError with dbt's message where it cannot parse the project.
    """
    path = manifest_path(settings)
    digest = _digest(settings)
    if not _is_fresh(path, digest):
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = f"another process is still parsing the project after {_PARSE_MINUTES} minutes"
        lock_file = path.with_name("manifest.lock")
        with lock(lock_file, seconds=_PARSE_MINUTES * 60, busy=busy):
            if not _is_fresh(path, digest):
                _parse(settings, path.parent)
                write_atomically(path.with_name(_DIGEST), digest)
    return path


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder for one dbt command to write to: two at once would overwrite each other's files.

    dbt's partial parse is copied there and back, so only changes are parsed.
    """
    kept = manifest_path(settings).with_name(PARTIAL_PARSE)
    with tempfile.TemporaryDirectory(prefix="dbt-") as name:
        folder = Path(name)
        partial_parse = folder / PARTIAL_PARSE
        if kept.exists():
            partial_parse.write_bytes(kept.read_bytes())
        yield folder
        if partial_parse.exists():
            write_atomically(kept, partial_parse.read_bytes())


def _is_fresh(path: Path, digest: str) -> bool:
    stored = path.with_name(_DIGEST)
    return path.exists() and stored.exists() and stored.read_text() == digest


def _digest(settings: Settings) -> str:
    """A digest of what decides a manifest: options, and names, sizes and times of files."""
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
    # dbt parses all files again when a variable of the profile changed
    database = settings.staging_database or embedded.running(settings.embedded_data_dir)
    with scratch(settings) as folder:
        command = [sys.executable, "-m", "dbt.cli.main", *FLAGS, "--quiet", "parse"]
        completed = subprocess.run(  # noqa: S603 - our own arguments, no shell
            [*command, *options(settings, folder)],
            check=False,
            env={**os.environ, **environment(settings, database)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if completed.returncode:
            message = completed.stdout.strip() or completed.stderr.strip()
            message = message.replace("\x1b[0m", "")
            raise ConfigurationError(
                f"dbt cannot parse the project in {settings.dbt_project_dir}:\n{message}"
            )
        write_atomically(target / "manifest.json", (folder / "manifest.json").read_bytes())
