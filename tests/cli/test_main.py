"""What an error means for who typed the command."""

from __future__ import annotations

import sys

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
    said = capsys.readouterr()
    assert said.err == f"error: {str(error) or 'KeyboardInterrupt'}\n"
    assert said.out == ""


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise EmbeddingsError("failed")

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(sys, "argv", ["embeddings-pipeline", "--debug", "status"])
    with pytest.raises(EmbeddingsError):
        main.main()
