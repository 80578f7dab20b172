"""LOG_FORMAT=json: one object a line on standard error of `run` and `serve`."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.cli import output, terminal
from embeddings_pipeline.cli.terminal import JsonFormatter
from embeddings_pipeline.current_run import in_run
from embeddings_pipeline.database import Database
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.sync.progress import Progress
from tests.support.hostile import CONTROLS, HOSTILE
from tests.support.service_process import command, environment
from tests.support.waiting import until

REQUIRED = {"time", "level", "logger", "message"}


def lines(text: str) -> list[dict[str, Any]]:
    """The objects of a log, each of which has all that is required."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(set(line) >= REQUIRED for line in found), found
    return found


@pytest.fixture
def logged() -> Iterator[StringIO]:
    """What the handler of a command writes, in JSON."""
    root, stream = logging.getLogger(), StringIO()
    handler = logging.StreamHandler(stream)
    root.addHandler(handler)
    terminal.log_as_json()
    yield stream
    root.removeHandler(handler)
    for other in root.handlers:
        if isinstance(other.formatter, JsonFormatter):
            other.setFormatter(None)


def test_a_record_is_one_object_with_its_run_and_entity(logged: StringIO) -> None:
    log = logging.getLogger("shop")
    log.error("outside %s", HOSTILE)
    with in_run("item", "run-1"):
        log.error("row %s\nfailed", 3)
    outside, inside = lines(logged.getvalue())
    assert outside.keys() == REQUIRED
    assert outside["message"] == f"outside {HOSTILE}"
    assert not CONTROLS.search(logged.getvalue())
    assert inside["level"] == "ERROR"
    assert inside["logger"] == "shop"
    assert inside["message"] == "row 3\nfailed"
    assert (inside["run_id"], inside["entity"]) == ("run-1", "item")
    assert inside["time"].endswith("+00:00")


def test_a_traceback_is_a_field(logged: StringIO) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("shop").exception("it failed")
    (line,) = lines(logged.getvalue())
    assert line["traceback"].endswith(f"ValueError: {HOSTILE}")


def test_messages_of_commands_are_objects(
    logged: StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_message("building marts")
    (line,) = lines(capsys.readouterr().err)
    assert (line["level"], line["message"]) == ("INFO", "building marts")


def test_progress_is_an_object(logged: StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    with output.progress(every_seconds=0) as report, in_run("item", "run-1"):
        report(Progress("item", 5, 10, 2.0, Counts(encoded=5, tokens=50)))
    (line,) = lines(capfd.readouterr().err)
    assert (line["entity"], line["run_id"]) == ("item", "run-1")
    assert (line["done"], line["pending"]) == (5, 10)
    assert line["message"].startswith("item: 5 of 10 chunks")


def test_an_error_of_a_run_is_an_object(tmp_path: Path) -> None:
    done = subprocess.run(
        command("run", "--all", "--no-dbt"),
        env={
            **os.environ,
            "LOG_FORMAT": "json",
            "EMBEDDED_DATA_DIR": str(tmp_path / "data"),
            "DBT_MANIFEST": str(tmp_path / "no.json"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert line["level"] == "ERROR"
    assert line["message"].startswith("no dbt manifest at")


def test_a_fault_is_an_object_with_its_traceback() -> None:
    program = (
        "import sys; from embeddings_pipeline.cli import main, terminal;"
        " main.options(False, False); terminal.log_as_json();"
        " main.app = lambda: 1 / 0; main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    (line,) = lines(done.stderr)
    assert line["message"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in line["traceback"]


def test_the_service_logs_objects(database: Database, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("serve", "--port", "0"),
        env=environment(database, LOG_FORMAT="json"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    first = process.stderr.readline()
    until(lambda: process.poll() is None)
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]
    assert lines(first + rest)[0]["message"].startswith("search: http://")
