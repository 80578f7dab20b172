"""Calls of the command line, in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.main import app


def command(*arguments: str) -> Result:
    """What a command printed, and how it ended."""
    return CliRunner().invoke(app, arguments)


def document(*arguments: str) -> Any:
    """The JSON that a command prints, which must be all of its standard output."""
    result = command(*arguments, "--json")
    assert result.exception is None, result.exception
    return json.loads(result.stdout)
