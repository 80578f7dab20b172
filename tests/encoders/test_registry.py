"""One encoder for each model of a process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.entities.declared import declared
from tests.words import WordsEncoder


def encoders(**settings: Any) -> Encoders:
    return Encoders(Settings(_env_file=None, **settings))


def test_a_model_is_made_once_for_each_dimension() -> None:
    made = encoders()
    assert made.get(DEFAULT_MODEL) is made.get(DEFAULT_MODEL)
    assert made.get(DEFAULT_MODEL, 64) is not made.get(DEFAULT_MODEL)
    assert made.get(DEFAULT_MODEL, 64).identity.dimension == 64


def test_an_entity_has_its_own_model_or_the_default() -> None:
    made = encoders(embedding_model="fake/words")
    words = WordsEncoder()
    made.add(words)
    assert made.of(declared()).uncached is words
    assert made.of(declared(model=DEFAULT_MODEL, dimension=64)).identity.dimension == 64


def test_nothing_is_encoded_where_that_is_switched_off() -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING_ENABLED is false"):
        encoders(embedding_enabled=False).get(DEFAULT_MODEL)


def test_a_model_with_other_weights_is_not_the_identical_one(tiny: Path) -> None:
    stored = encoders().get(DEFAULT_MODEL).identity
    assert encoders().identical(stored).identity == stored
    with pytest.raises(
        ConfigurationError, match=r"has other weights now \(sha256 [0-9a-f]{12}, not"
    ):
        encoders(embedding_model_path=tiny / "bert").identical(replace(stored, dimension=16))


def test_models_are_let_go() -> None:
    made = encoders()
    before = made.get(DEFAULT_MODEL)
    made.cleanup()
    assert made.get(DEFAULT_MODEL) is not before
