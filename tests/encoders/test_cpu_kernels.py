"""The ways to compute attention and GELU on a CPU: their vectors, and the choice between them."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embeddings_pipeline.encoders.local import cpu_kernels
from embeddings_pipeline.encoders.local.bert import scripted
from embeddings_pipeline.encoders.local.cpu_kernels import Kernels, Shape, kernels_for
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

MINILM = Shape(hidden=384, inner=1536, heads=12)
# lengths on both sides of every range
TEXTS = ["word " * words for words in (1, 20, 40, 90, 200, 254)]


def vectors(**settings: Any) -> Vectors:
    made = Settings(_env_file=None, embedding_device="cpu", **settings)
    return Encoders(made).get(DEFAULT_MODEL).encode_documents(TEXTS).vectors


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "embeddings-pipeline" / "kernels"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["exp", "torch", "auto"])
def test_whichever_kernels_run_the_vectors_point_the_same_way(kernels: str, precision: str) -> None:
    reference = vectors(embedding_precision="float32", embedding_cpu_kernels="torch")
    made = vectors(embedding_precision=precision, embedding_cpu_kernels=kernels)
    assert (made * reference).sum(axis=1).min() > {"float32": 0.999999, "bfloat16": 0.999}[
        precision
    ]


def test_one_way_is_not_the_other() -> None:
    one, other = (vectors(embedding_cpu_kernels=kernels) for kernels in ("exp", "torch"))
    assert not np.array_equal(one, other)


def test_the_kernels_are_timed_once_for_the_shapes_of_a_model(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = kernels_for("auto", MINILM, torch.float32)
    (remembered,) = caches.iterdir()
    monkeypatch.setattr(cpu_kernels, "milliseconds", lambda *_: pytest.fail("timed again"))
    assert kernels_for("auto", MINILM, torch.float32) == timed
    remembered.write_text("[128, false]")
    assert kernels_for("auto", MINILM, torch.float32) == Kernels(128, False)


@pytest.mark.parametrize("damaged", ["", "[1", "[1]", '"1"', "7"])
def test_they_are_timed_again_where_the_file_is_damaged(caches: Path, damaged: str) -> None:
    kernels_for("auto", MINILM, torch.float32)
    (remembered,) = caches.iterdir()
    remembered.write_text(damaged)
    timed = kernels_for("auto", MINILM, torch.float32)
    assert Kernels(*json.loads(remembered.read_text())) == timed


def test_they_are_timed_where_nothing_can_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kernels_for("auto", MINILM, torch.float32).exp_tokens >= 0


@pytest.mark.parametrize(
    ("slow", "exp_tokens"), [("attention_by_exp", 0), ("attention_by_torch", 1024)]
)
def test_the_slower_way_is_not_taken(
    caches: Path, monkeypatch: pytest.MonkeyPatch, slow: str, exp_tokens: int
) -> None:
    monkeypatch.setattr(cpu_kernels, slow, lambda qkv: time.sleep(0.05))
    assert kernels_for("auto", MINILM, torch.float32).exp_tokens == exp_tokens


def test_half_precision_takes_torchs_own_attention() -> None:
    assert kernels_for("exp", MINILM, torch.float16) == Kernels(0, False)


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_what_torch_recommends_in_place_of_torchscript_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, category: type[Warning]
) -> None:
    def script(function: Callable[..., Any]) -> Callable[..., Any]:
        # as torch 2.13 and 2.14 warn
        warnings.warn("`torch.jit.script` is deprecated. Please switch", category, stacklevel=2)
        return function

    monkeypatch.setattr(torch.jit, "script", script)
    assert scripted(abs) is abs
