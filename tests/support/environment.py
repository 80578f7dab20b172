"""The settings that the environment gives to the code under test."""

from __future__ import annotations

import pytest

from embeddings_pipeline.settings import Settings

VARIABLES = frozenset(field.upper() for field in Settings.model_fields)


def only_settings(patch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set these variables, and remove all others that are settings."""
    for name in VARIABLES:
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)
