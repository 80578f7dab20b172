"""`.env.example` names every variable, with its default."""

from __future__ import annotations

import pytest

from embeddings_pipeline.settings import Settings
from tests.support import CHECKOUT
from tests.support.environment import VARIABLES, only_settings

EXAMPLE = CHECKOUT / ".env.example"


def test_every_variable_is_there_and_no_other() -> None:
    lines = EXAMPLE.read_text().splitlines()
    named = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert len(named) == len(set(named))
    assert set(named) == VARIABLES


def test_the_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    only_settings(monkeypatch)
    assert Settings(_env_file=EXAMPLE) == Settings(_env_file=None)
