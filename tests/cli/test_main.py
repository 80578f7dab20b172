"""The command line itself: help, version, and the exit codes of errors."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import psycopg
import pytest

from embeddings_pipeline.cli import main
from embeddings_pipeline.errors import ConfigurationError, DeletesRefused, EmbeddingsError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("wrong"), 2),
        (EmbeddingsError("failed"), 1),
        (DeletesRefused("refused"), 1),
        (psycopg.OperationalError("gone"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == code
    printed = capsys.readouterr()
    assert printed.err == f"error: {str(error) or 'KeyboardInterrupt'}\n"
    assert printed.out == ""


def call(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    start = "from embeddings_pipeline.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, *options, "-c", start, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_help_lists_the_commands_and_imports_no_large_library() -> None:
    done = call("--help", options=("-X", "importtime"))
    assert [name for name in main.COMMANDS if f"\n  {name} " not in done.stdout] == []
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported & {"dagster", "torch", "numpy", "psycopg", "rich"} == set()


def test_version_is_printed() -> None:
    assert call("--version").stdout == f"{version('embeddings-pipeline')}\n"


@pytest.mark.parametrize("command", main.COMMANDS)
def test_short_help_is_the_first_sentence_of_the_command_s_help(command: str) -> None:
    name, text = main.COMMANDS[command]
    module = import_module(f"embeddings_pipeline.cli.commands.{name}")
    if hasattr(module, "app"):
        described = str(module.app.info.help)
    else:
        described = inspect.getdoc(getattr(module, command)) or ""
    sentence, *_ = re.split(r"(?<=\.)\s", " ".join(described.split()))
    assert text == sentence


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise EmbeddingsError("failed")

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(sys, "argv", ["embeddings-pipeline", "--debug", "status"])
    with pytest.raises(EmbeddingsError):
        main.main()
