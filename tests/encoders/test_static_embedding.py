"""A static model looks up the vectors of tokens, and needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file
from sentence_transformers import SentenceTransformer

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings
from tests.support import tiny_models
from tests.support.tiny_models import TEXTS
from tests.support.world import World

RUN = """
import json, sys
from pydantic import SecretStr
from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
from tests.support.world import World

given = json.load(sys.stdin)
world = World(Database.from_url("PGVECTOR_URL", SecretStr(given["url"])))
world.table("id bigint, name text")
world.insert((1, "A red shoe."), (2, "A blue lamp."))
world.encoders = Encoders(
    Settings(_env_file=None, embedding_model="my/static", embedding_model_path=given["folder"])
)
item = world.declare(template="{name}")
assert world.run(item)["encoded"] == 2
(stored,) = world.sets(item)
assert world.encoders.for_identity(stored.identity).encode_query(["shoe"]).vectors.any()
print({"torch", "transformers", "sentence_transformers"} & set(sys.modules))
"""


def encoder_of(folder: Path) -> Any:
    settings = Settings(_env_file=None, embedding_model="my/static", embedding_model_path=folder)
    return Encoders(settings).get("my/static")


def test_a_run_and_a_search_with_a_static_model_import_no_torch(
    world: World, tmp_path: Path
) -> None:
    given = {"url": world.database.url, "folder": str(tiny_models.make_static(tmp_path))}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


def test_a_text_without_tokens_has_the_zero_vector(tmp_path: Path) -> None:
    encoder = encoder_of(tiny_models.make_static(tmp_path))
    assert not encoder.encode_documents([""]).vectors.any()
    alone = encoder.encode_documents(["red"]).vectors[0]
    mixed = encoder.encode_documents(["", "red", ""]).vectors
    np.testing.assert_array_equal(mixed[1], alone)
    assert not mixed[[0, 2]].any()


def test_a_model2vec_with_few_vectors_has_a_vector_and_a_weight_for_each_token(
    tmp_path: Path,
) -> None:
    folder = tiny_models.make_static(tmp_path)
    tokens = len(load_file(folder / "model.safetensors")["embedding.weight"])
    random = np.random.default_rng(0)
    stored: dict[str, np.ndarray[Any, Any]] = {
        "embeddings": random.standard_normal((50, 16), np.float32),
        "mapping": random.integers(0, 50, tokens),
        "weights": random.random(tokens, np.float32),
    }
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    wanted = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS))
    np.testing.assert_allclose(
        encoder_of(folder).encode_documents(TEXTS).vectors, wanted, atol=1e-5
    )


def test_vectors_of_another_type_are_those_of_their_values(tmp_path: Path) -> None:
    folder = tiny_models.make_static(tmp_path)
    values = np.random.default_rng(0).integers(-128, 127, (300, 16))
    vectors = []
    for kind in (torch.float32, torch.int8, torch.float16, torch.bfloat16):
        stored = {"embeddings": torch.from_numpy(values).to(kind)}
        save_torch_file(stored, folder / "model.safetensors")
        vectors.append(encoder_of(folder).encode_documents(TEXTS).vectors)
    for found in vectors[1:]:
        np.testing.assert_array_equal(found, vectors[0])


def test_tokens_without_a_vector_are_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    folder = tiny_models.make_static(tmp_path)
    stored = load_file(folder / "model.safetensors")
    tokens = len(stored["embedding.weight"])
    save_file({"embeddings": stored["embedding.weight"][:-1]}, folder / "model.safetensors")
    refusal = f"has vectors for {tokens - 1} tokens, and the tokenizer {tokens} tokens"
    with pytest.raises(ConfigurationError, match=refusal):
        encoder_of(folder).check()


def test_a_static_model_may_have_no_other_parts(tmp_path: Path) -> None:
    folder = tiny_models.make_static(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigurationError, match="has the parts StaticEmbedding, Dense; supported"):
        encoder_of(folder)


def test_weights_without_vectors_of_tokens_are_no_static_model(tmp_path: Path) -> None:
    folder = tiny_models.make_static(tmp_path)
    save_file({"other": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    with pytest.raises(ConfigurationError, match="do not describe a model"):
        encoder_of(folder)
