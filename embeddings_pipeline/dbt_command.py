"""The dbt command: parses and builds the project, and reads what it wrote.

Imports neither Dagster nor dbt, which is a command here and no library.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings_pipeline import stopping
from embeddings_pipeline.database import Database
from embeddings_pipeline.entities.manifest import (
    MANIFEST,
    load_manifest,
    manifest_path,
    target_dir,
)
from embeddings_pipeline.errors import ConfigurationError, Interrupted
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store.embedded import server as embedded

# no network calls, and no output except messages for people
FLAGS = ("--no-use-colors", "--no-version-check", "--no-send-anonymous-usage-stats")
_PARTIAL_PARSE = "partial_parse.msgpack"
_RESULTS = "run_results.json"
_POLL_SECONDS = 0.2
# what later commands of this deployment read
_KEPT = (MANIFEST, _PARTIAL_PARSE)
_FAILED = ("error", "fail", "runtime error", "skipped", "partial success")


@dataclass(frozen=True)
class Build:
    """What a `dbt build` did: the manifest that it wrote, and the result of each node by its
    unique id. `message` is dbt's output where it built nothing."""

    manifest: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Any]]
    message: str

    def problem(self, unique_id: str) -> str | None:
        """Why a model cannot be used: it was not built, or a test of severity error fails."""
        result = self.results.get(unique_id)
        if result is None:
            return f"dbt did not build it: {self.message}"
        name = self.manifest["nodes"][unique_id]["name"]
        if result["status"] in _FAILED:
            return self._reason(unique_id, f"dbt: {name}: {_shortened(result)}")
        for test_id, test in self.results.items():
            if test["status"] in _FAILED and unique_id == self.tested(test_id):
                rows = f" ({test['failures']} rows)" if test.get("failures") else ""
                return f"dbt test {test_id.split('.')[2]} failed{rows}"
        return None

    def _reason(self, unique_id: str, message: str) -> str:
        """The failure upstream, of a model that was skipped for it."""
        if self.results[unique_id]["status"] != "skipped":
            return message
        for parent in self.manifest["parent_map"].get(unique_id, []):
            if (result := self.results.get(parent)) and result["status"] in _FAILED:
                name = self.manifest["nodes"][parent]["name"]
                return self._reason(parent, f"dbt: {name}: {_shortened(result)}")
        for test_id, test in self.results.items():
            if test_id.startswith("unit_test.") and test["status"] in _FAILED:
                return f"dbt: {test_id.split('.')[-1]}: {_shortened(test)}"
        return message

    def tested(self, test_id: str) -> str | None:
        """The model that a test is about: the only one that it reads, or that it is declared on."""
        test = self.manifest["nodes"].get(test_id, {})
        read = test.get("depends_on", {}).get("nodes", [])
        found: str | None = read[0] if len({*read}) == 1 else test.get("attached_node")
        return found


def executable() -> str:
    """The dbt command of this Python environment, else the first on PATH.

    Raises ConfigurationError where there is none.
    """
    own = Path(sys.executable).with_name("dbt")
    found = str(own) if own.exists() else shutil.which("dbt")
    if found is None:
        raise ConfigurationError(
            "there is no dbt command: pip install 'embeddings-pipeline[dbt]', or build the models"
            " yourself and set DBT_MANIFEST to the manifest.json that dbt writes"
        )
    return found


def require_project(settings: Settings) -> None:
    """Raise ConfigurationError where DBT_PROJECT_DIR holds no dbt project."""
    if not (settings.dbt_project_dir / "dbt_project.yml").is_file():
        raise ConfigurationError(
            f"DBT_PROJECT_DIR {str(settings.dbt_project_dir)!r} holds no dbt project: there is no"
            " dbt_project.yml. Go to the folder of a project, or make one:"
            " `embeddings-pipeline init FOLDER`"
        )


def variables(settings: Settings) -> list[str]:
    """The option with the variables of the project: its marts read vectors, where they can."""
    return ["--vars", json.dumps({"vectors_in_staging_database": settings.one_database})]


def profiles_dir(settings: Settings) -> Path | None:
    """The folder of profiles.yml: DBT_PROFILES_DIR, the project's own or `~/.dbt`; None where there
    is none."""
    if settings.dbt_profiles_dir:
        return settings.dbt_profiles_dir
    # Path.expanduser() raises for a user who has no home
    for folder in (settings.dbt_project_dir, Path(os.path.expanduser("~/.dbt"))):
        if (folder / "profiles.yml").exists():
            return folder
    return None


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
        # dbt-postgres connects by libpq, which reads PGSSLMODE and the like
        **{f"PG{name.upper().replace('_', '')}": value for name, value in database.tls},
    }


def existing_manifest(settings: Settings) -> Path:
    """The path of the manifest that is there; dbt parses the project where there is none.

    Raises ConfigurationError with dbt's message where it cannot parse the project.
    """
    path = manifest_path(settings)
    if not path.exists() and settings.dbt_manifest is None:
        parse(settings)
        path = manifest_path(settings)
    return path


def parse(settings: Settings, database: Database | None = None) -> Mapping[str, Any]:
    """Let dbt parse the project; returns the manifest. dbt itself knows what has changed.

    Without `database` the profile gets the configured one, or the embedded server where it runs.
    Raises ConfigurationError with dbt's message where it cannot parse the project.
    """
    database = database or settings.staging_database or embedded.running(settings.embedded_data_dir)
    with scratch(settings) as folder:
        completed = _run(settings, database, folder, "--quiet", "parse", *variables(settings))
        if completed.returncode:
            raise ConfigurationError(
                f"dbt cannot parse the project in {settings.dbt_project_dir}:\n{_output(completed)}"
            )
        return load_manifest(folder / MANIFEST)


def build(settings: Settings, database: Database, nodes: Iterable[Mapping[str, Any]]) -> Build:
    """Build models and seeds with their tests, in one dbt command. Unit tests run with their
    models; a test that also reads another model runs only where that one is built, too.

    Raises ConfigurationError where dbt cannot parse the project.
    """
    selected = sorted("fqn:" + ".".join(node["fqn"]) for node in nodes)
    with scratch(settings) as folder:
        completed = _run(
            settings,
            database,
            folder,
            *("build", "--indirect-selection", "cautious", "--select", *selected),
            *variables(settings),
        )
        if not (folder / _RESULTS).exists():
            raise ConfigurationError(
                f"dbt cannot build the project in {settings.dbt_project_dir}:\n{_output(completed)}"
            )
        results = json.loads((folder / _RESULTS).read_text())["results"]
        return Build(
            load_manifest(folder / MANIFEST),
            {result["unique_id"]: result for result in results},
            _output(completed),
        )


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder for one dbt command to write to: two at once would overwrite each other's files.

    It begins with dbt's partial parse, so that only changes are parsed. That and the manifest are
    kept afterwards.
    """
    require_project(settings)
    kept = target_dir(settings)
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{error}: set EMBEDDED_DATA_DIR to a folder that you can write to"
        ) from error
    with tempfile.TemporaryDirectory(prefix="dbt-") as name:
        folder = Path(name)
        if (kept / _PARTIAL_PARSE).exists():
            shutil.copy(kept / _PARTIAL_PARSE, folder)
        yield folder
        for file in _KEPT:
            if (folder / file).exists():
                write_atomically(kept / file, (folder / file).read_bytes())


def _run(
    settings: Settings, database: Database | None, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    profiles = profiles_dir(settings)
    command = [
        executable(),
        *FLAGS,
        *("--log-level-file", "none"),
        *arguments,
        *("--project-dir", str(settings.dbt_project_dir)),
        *(("--profiles-dir", str(profiles)) if profiles else ()),
        *(("--target", settings.dbt_target) if settings.dbt_target else ()),
        *("--target-path", str(folder), "--log-path", str(folder)),
    ]
    with (
        stopping.on_signals() as stopped,
        subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            command,
            env={**os.environ, **environment(settings, database)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        while True:
            try:
                output, errors = process.communicate(timeout=_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if stopped():
                    process.send_signal(signal.SIGINT)
        if stopped():
            raise Interrupted("dbt: interrupted; run again to go on")
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _output(completed: subprocess.CompletedProcess[str]) -> str:
    output = completed.stdout.strip() or completed.stderr.strip()
    return output.replace("\x1b[0m", "")


def _shortened(result: Mapping[str, Any]) -> str:
    """The message without the query that a database quotes, and the path of a scratch file."""
    message = str(result.get("message") or result["status"])
    lines = message.partition("\n  QUERY:")[0].strip().splitlines()
    return "\n".join(line for line in lines if "compiled code at" not in line)
