"""The ways to compute attention and GELU on a CPU: their vectors, and the choice between them."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.profiler import profile

from embeddings_pipeline.encoders.local import cpu_kernels
from embeddings_pipeline.encoders.local.bert import Bert, scripted
from embeddings_pipeline.encoders.local.cpu_kernels import (
    TORCH,
    Kernels,
    Shape,
    attention_by_exp,
    attention_by_torch,
    blocks_of,
    kernels_for,
)
from embeddings_pipeline.encoders.local.download import find_or_download
from embeddings_pipeline.encoders.local.weights import WEIGHTS
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
    return tmp_path / "embeddings-pipeline" / "cpu_kernels"


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


@pytest.fixture
def uninitialized_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def attended(attention: Callable[..., None], projected: Tensor, lengths: list[int]) -> Tensor:
    """What a kernel makes of the only block of texts of these lengths."""
    (block,) = blocks_of(lengths)
    result = torch.full((len(projected), MINILM.hidden), torch.nan, dtype=projected.dtype)
    attention(projected, result, block, MINILM.heads)
    return result


def random_projection(tokens: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(tokens, 3 * MINILM.hidden, generator=generator).to(dtype)


# the rounding of scores and weights
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.03}
both_precisions = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@both_precisions
@pytest.mark.usefixtures("uninitialized_memory_is_nan")
@pytest.mark.parametrize("lengths", [[1], [16, 16], [31, 30, 30, 17], [1020]])
def test_both_ways_to_compute_attention_give_the_same(
    lengths: list[int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    projected = random_projection(sum(lengths), dtype)
    own = attended(attention_by_torch, projected, lengths)
    monkeypatch.setattr(cpu_kernels, "attention_by_torch", lambda *_: pytest.fail("out of range"))
    ours = attended(attention_by_exp, projected, lengths)
    torch.testing.assert_close(ours, own, rtol=0, atol=TOLERANCES[dtype])


@both_precisions
@pytest.mark.parametrize("score", [-1000.0, -89.5, 88.0, 89.5, 1000.0])
def test_scores_out_of_the_range_of_exp_change_nothing(score: float, dtype: torch.dtype) -> None:
    lengths = [40, 33]
    projected = random_projection(sum(lengths), dtype)
    query, key, _ = torch.split(projected, MINILM.hidden, dim=1)
    # each query has this score with each key, and little more or less
    width = MINILM.hidden // MINILM.heads
    query[:, ::width] = 16.0
    key[:, ::width] = score * width**0.5 / 16
    ours, own = (
        attended(attention, projected, lengths)
        for attention in (attention_by_exp, attention_by_torch)
    )
    torch.testing.assert_close(ours, own, rtol=0, atol=TOLERANCES[dtype])


def test_texts_of_all_lengths_need_few_shapes_of_products() -> None:
    """oneDNN compiles a kernel for each shape, and keeps 1,024 of them."""
    folder = find_or_download(DEFAULT_MODEL, Settings(_env_file=None))
    config = json.loads((folder / "config.json").read_text())
    kernels = Kernels(exp_tokens=1024, fused_gelu=False)
    bert = Bert(folder / WEIGHTS, config, "mean", kernels, device="cpu", dtype=torch.float32)
    with profile(record_shapes=True) as recorded:
        for tokens in range(1, 80, 3):
            bert.vectors([np.full(tokens, 7, np.int32)])
    products = {"aten::addmm", "aten::bmm", "aten::baddbmm"}
    shapes = {
        (event.name, str(event.input_shapes))
        for event in recorded.events()
        if event.name in products
    }
    assert {name for name, _ in shapes} == products
    # five lengths up to 80: two products of attention and four with weights
    assert len(shapes) == 5 * 6


def same(_: Kernels) -> Vectors:
    return np.ones((2, 3), np.float32)


def chosen(option: str = "auto", vectors: Callable[[Kernels], Vectors] = same) -> Kernels:
    return kernels_for(option, MINILM, torch.float32, "r1", vectors)


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels(exp_tokens=64, fused_gelu=False)
    monkeypatch.setattr(cpu_kernels, "_fastest", lambda *_: kernels)
    return kernels


def test_the_kernels_are_timed_once_for_a_model(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = chosen()
    (remembered,) = caches.iterdir()
    monkeypatch.setattr(cpu_kernels, "milliseconds", lambda *_: pytest.fail("timed again"))
    assert chosen() == timed
    remembered.write_text("[128, false]")
    assert chosen() == Kernels(128, False)


@pytest.mark.parametrize(
    "damaged",
    [
        *("", "[1", "[1]", '"1"', "7", "[" * 100_000, '{"a": 1, "b": 2}', "[null, null]"),
        *('["a", true]', "[-5, true]", "[1e9, false]", "[2048, false]", '[512, "false"]'),
        "[true, true]",
    ],
    ids=lambda damaged: damaged[:20],
)
def test_they_are_timed_again_where_the_file_is_damaged(
    caches: Path, fastest: Kernels, damaged: str
) -> None:
    chosen()
    (remembered,) = caches.iterdir()
    remembered.write_text(damaged)
    assert chosen() == fastest
    assert json.loads(remembered.read_text()) == [*fastest]


def test_they_are_timed_where_nothing_can_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert chosen().exp_tokens >= 0


@pytest.mark.parametrize(
    ("slow", "exp_tokens"), [("attention_by_exp", 0), ("attention_by_torch", 1024)]
)
def test_the_slower_way_is_not_taken(
    caches: Path, monkeypatch: pytest.MonkeyPatch, slow: str, exp_tokens: int
) -> None:
    monkeypatch.setattr(cpu_kernels, slow, lambda *_: time.sleep(0.05))
    assert chosen().exp_tokens == exp_tokens


def test_half_precision_takes_torchs_own_attention() -> None:
    assert kernels_for("exp", MINILM, torch.float16, "r1", same) == TORCH


def test_a_model_whose_scores_lose_precision_keeps_torchs_own_attention(
    caches: Path, tmp_path: Path, fastest: Kernels
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(find_or_download(DEFAULT_MODEL, Settings(_env_file=None)), folder)
    weights = load_file(folder / WEIGHTS)
    # each query has nearly this score with each key, which changes no attention
    score, width = 60, MINILM.hidden // MINILM.heads
    for layer in range(6):
        name = f"encoder.layer.{layer}.attention.self"
        weights[f"{name}.query.bias"][::width] = 16
        weights[f"{name}.key.bias"][::width] = score * width**0.5 / 16
    save_file(weights, folder / WEIGHTS)
    settings = {"embedding_model_path": folder, "embedding_precision": "bfloat16"}
    by_torch, by_choice = (
        vectors(**settings, embedding_cpu_kernels=kernels) for kernels in ("torch", "auto")
    )
    assert np.array_equal(by_torch, by_choice)
    (remembered,) = caches.iterdir()
    assert json.loads(remembered.read_text()) == [*TORCH]


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
