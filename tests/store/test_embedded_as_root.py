"""As root, the server runs as a user of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from embeddings_pipeline.store.embedded import host
from embeddings_pipeline.store.embedded import server as embedded
from tests.support.embedded_server import one, postmaster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="about what only root meets")


def test_root_keeps_a_private_folder_private(data_dir: Path) -> None:
    private = data_dir / "home"
    private.mkdir(mode=0o700)
    home = host.home(private / "data")
    try:
        database = embedded.start(private / "data")
        assert one(database, "select 1") == 1
        assert private.stat().st_mode & 0o777 == 0o700
        assert home.parent == host.SHARED_FOLDER
        assert (home / "postgres").owner() == host.USER
        assert list((private / "data").iterdir()) == []
        assert embedded.running(private / "data") == database
    finally:
        embedded.stop(private / "data")
        subprocess.run(["rm", "-rf", str(home)])


def test_root_copies_programs_that_the_servers_user_cannot_reach(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open, shared = host._is_open, data_dir / "shared"
    monkeypatch.setattr(host, "SHARED_FOLDER", shared)
    monkeypatch.setattr(
        host, "_is_open", lambda path: "site-packages" not in path.parts and is_open(path)
    )
    assert one(embedded.start(data_dir), "select '[1]'::vector(1)") == "[1]"
    assert Path(postmaster(data_dir).exe()).is_relative_to(shared)
    embedded.stop(data_dir)
