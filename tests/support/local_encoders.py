"""Encoders of models in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embeddings_pipeline.encoders.local.encoder import SentenceTransformersEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings


def encoder_of(
    folder: Path, dimension: int | None = None, **settings: Any
) -> SentenceTransformersEncoder:
    """The encoder of a model, on the CPU and in float32."""
    made = Settings(
        _env_file=None,
        embedding_model="my/model",
        embedding_model_path=folder,
        **{"embedding_device": "cpu", "embedding_precision": "float32", **settings},
    )
    encoder = Encoders(made).get("my/model", dimension)
    assert isinstance(encoder, SentenceTransformersEncoder)
    return encoder


def edit(file: Path, **values: Any) -> None:
    """Set keys of a JSON file, which need not exist."""
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | values))
