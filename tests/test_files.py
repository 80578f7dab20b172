"""Locks between processes, and files that are written whole."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

import pytest

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import lock, write_atomically


def test_a_lock_that_is_not_to_be_had_says_who_has_it_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        lock(path, seconds=0, busy="nobody has it"),
        pytest.raises(ConfigurationError) as error,
        lock(path, seconds=0.1, busy="another is at work"),
    ):
        pass
    assert str(error.value) == f"another is at work: wait for it, or end what holds {path}"
    with lock(path, seconds=0, busy="it was given back"):
        pass


def test_a_child_keeps_the_lock_that_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path, seconds=0, busy="") as descriptor:
        child = subprocess.Popen(["sleep", "1000"], pass_fds=[descriptor])
    with child:
        with pytest.raises(ConfigurationError), lock(path, seconds=0, busy="the child has it"):
            pass
        child.kill()
    with lock(path, seconds=0, busy="the child is gone"):
        pass


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_takes_the_place_of_the_former_with_its_mode(
    tmp_path: Path, mode: Literal[0o600, 0o644]
) -> None:
    path = tmp_path / "file"
    path.touch(0o666)
    write_atomically(path, "é", mode=mode)
    assert path.read_bytes() == "é".encode()
    assert path.stat().st_mode & 0o777 == mode
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"


def test_a_write_that_fails_leaves_the_former_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("former")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "former")]
