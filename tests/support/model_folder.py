"""The folder of a model, made part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.encoders.local.description import describe, shortened
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError


class Folder:
    """The folder of a model, part by part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: list[dict[str, Any]] = []

    def has(self, name: str, content: dict[str, Any] | bytes) -> Folder:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return self

    def part(self, kind: str, path: str = "", /, **config: Any) -> Folder:
        self.modules.append({"type": f"sentence_transformers.models.{kind}", "path": path})
        self.has("modules.json", json.dumps(self.modules).encode())
        return self.has(f"{path}/config.json".lstrip("/"), config)

    def describe(self, dimension: int | None = None) -> ModelIdentity:
        return shortened(describe("some/model", self.path), dimension)

    def refusal(self, dimension: int | None = None) -> str:
        with pytest.raises(ConfigurationError) as error:
            self.describe(dimension)
        return str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """That of a transformer alone, with weights."""
    folder = Folder(tmp_path).has("model.safetensors", b"weights")
    return folder.has("config.json", {"hidden_size": 8, "max_position_embeddings": 64})
