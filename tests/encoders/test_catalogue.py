"""Which models are known, and which are at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.encoders.catalogue import KnownModel, known_models
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings


def listed(tmp_path: Path, *declared: str, **settings: Any) -> dict[str, KnownModel]:
    given = Settings(_env_file=None, embedding_model_cache_dir=tmp_path / "cache", **settings)
    return {model.model: model for model in known_models(given, declared)}


def test_the_packaged_model_is_at_hand_and_remote_ones_need_a_key(tmp_path: Path) -> None:
    found = listed(tmp_path)
    default = found[DEFAULT_MODEL]
    assert (default.provider, default.dimension, default.max_tokens, default.at_hand) == (
        *("sentence-transformers", 384, 256),
        True,
    )
    small = found["text-embedding-3-small"]
    assert (small.provider, small.dimension, small.max_tokens) == ("openai", 1536, 8191)
    assert small.usd_per_million_tokens == pytest.approx(0.02)
    assert not small.at_hand
    assert "OPENAI_API_KEY is not set" in small.where


def test_models_that_see_images_are_listed(tmp_path: Path) -> None:
    for model in ("sentence-transformers/clip-ViT-B-32", "openai/clip-vit-base-patch32"):
        assert listed(tmp_path)[model].where == "only on the hub"


def test_a_key_puts_remote_models_at_hand_and_is_not_shown(tmp_path: Path) -> None:
    found = listed(tmp_path, openai_api_key="sk-secret")
    assert found["text-embedding-3-large"].at_hand
    assert "sk-secret" not in repr(found)


def test_declared_models_are_listed_wherever_they_are(tmp_path: Path, tiny: Path) -> None:
    found = listed(
        tmp_path,
        *("some/other", "openai:BAAI/bge-m3", "some/other"),
        embedding_model="my/model",
        embedding_model_path=tiny / "model",
        embedding_prices={"openai:BAAI/bge-m3": 1.5},
    )
    assert (found["my/model"].dimension, found["my/model"].where) == (24, str(tiny / "model"))
    assert (found["some/other"].at_hand, found["some/other"].where) == (False, "only on the hub")
    assert found["openai:BAAI/bge-m3"].dimension is None
    assert found["openai:BAAI/bge-m3"].usd_per_million_tokens == pytest.approx(1.5)


def test_a_folder_that_holds_no_model_is_said_so(tmp_path: Path) -> None:
    found = listed(tmp_path, embedding_model="my/model", embedding_model_path=tmp_path)
    assert not found["my/model"].at_hand
    assert "holds no model" in found["my/model"].where


def test_no_model_is_loaded_to_list_them() -> None:
    code = (
        "import sys\n"
        "from embeddings_pipeline.encoders.catalogue import known_models\n"
        "from embeddings_pipeline.settings import Settings\n"
        "known_models(Settings(_env_file=None), [])\n"
        "print({'torch', 'openai', 'sentence_transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
