"""Runs a BERT on an NVIDIA card, without padding. Importing it imports torch.

The texts of a batch stand one behind the other, and attention is told where each begins. The pass
is one TorchScript function, which needs the interpreter's lock once and not for each of its
operations. Batches queue on the card: one thread waits for the vectors of its batch while others
send the next, so the card does not wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from embeddings_pipeline.encoders.local.bert import (
    BertWeights,
    Pooling,
    rows_of_positions,
    scripted,
)
from embeddings_pipeline.encoders.local.loaded_model import BatchLimits, Tokens
from embeddings_pipeline.entities.model import Vectors

# compute capability of NVIDIA Ampere, the first generation that flash attention runs on
_FLASH_CAPABILITY = (8, 0)
# up to this length memory-efficient attention is faster than flash attention
_SHORT_TOKENS = 64
# more tokens are hardly faster; a kernel's grid has room for fewer than 65,536 texts
_MAX_TOKENS, _MAX_TEXTS = 65_536, 32_768
# the share of the card's free memory that a batch may take: other processes use the card, too
_MEMORY_SHARE = 0.25


class Packed(NamedTuple):
    """A batch as one array, int32: token ids, the row of the position of each, and where the
    texts start and the last one ends. `longest` is the number of tokens of the longest text."""

    numbers: torch.Tensor
    tokens: int
    longest: int


def pack(texts: Sequence[Tokens], padding: int | None) -> Packed:
    """Put the token ids of texts one behind the other; see `rows_of_positions` for `padding`."""
    lengths = np.fromiter(map(len, texts), np.int32, len(texts))
    starts = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(lengths, out=starts[1:])
    ids = np.concatenate(texts)
    numbers = np.concatenate([ids, rows_of_positions(ids, texts, padding), starts])
    return Packed(torch.from_numpy(numbers), len(ids), int(lengths.max()))


class CudaBert:
    """A BERT on an NVIDIA card. Thread-safe."""

    def __init__(self, weights: BertWeights, pooling: Pooling, padding: int | None) -> None:
        self._weights = weights
        self._padding = padding
        self._cls = pooling == "cls"
        words, *_ = weights.embeddings
        self._device = words.device
        self._flash = (
            words.dtype != torch.float32
            and torch.cuda.get_device_capability(self._device) >= _FLASH_CAPABILITY
        )
        # hidden state, residual, query, key, value and attention; and the inner state
        width, inner = words.shape[1], weights.layers[0][6].shape[0]
        bytes_a_token = words.element_size() * (6 * width + inner)
        free, _ = torch.cuda.mem_get_info(self._device)
        fitting = int(free * _MEMORY_SHARE) // bytes_a_token
        self.limits = BatchLimits(texts=_MAX_TEXTS, tokens=min(fitting, _MAX_TOKENS))
        # torch.compile takes 4 s to compile for a shape, and is a tenth faster
        self._forward = scripted(_pooled_vectors)

    def vectors(self, texts: Sequence[Tokens]) -> Vectors:
        """Return the pooled token vectors of each text, float32, shape (texts, dimension)."""
        packed = pack(texts, self._padding)
        # a copy that does not block must have pinned memory at its other end
        numbers = packed.numbers.pin_memory().to(self._device, non_blocking=True)
        vectors = self.forward(packed._replace(numbers=numbers)).to("cpu", non_blocking=True)
        # only for this batch, and without the interpreter's lock
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        torch.cuda.current_stream(self._device).record_event(done)
        done.synchronize()
        return vectors.numpy()

    def forward(self, packed: Packed) -> torch.Tensor:
        """Return the vectors on the device of the weights, without waiting for them."""
        with torch.inference_mode():
            vectors: torch.Tensor = self._forward(
                packed.numbers,
                packed.tokens,
                packed.longest,
                self._flash and packed.longest > _SHORT_TOKENS,
                self._cls,
                *self._weights,
            )
        return vectors


def _attended(
    projected: torch.Tensor, starts: torch.Tensor, longest: int, heads: int, flash: bool
) -> torch.Tensor:
    # softmax(QK'/sqrt(d))V within each text, arxiv.org/abs/1706.03762
    q, k, v = projected.view(projected.shape[0], 3, heads, -1).unbind(1)
    if flash:
        mixed: torch.Tensor = torch.ops.aten._flash_attention_forward(
            q, k, v, starts, starts, longest, longest, 0.0, False, False
        )[0]
    else:
        mixed = torch.ops.aten._efficient_attention_forward(
            q[None], k[None], v[None], None, starts, starts, longest, longest, 0.0, 0
        )[0][0]
    return mixed.flatten(1)


def _pooled_vectors(
    numbers: torch.Tensor,
    tokens: int,
    longest: int,
    flash: bool,
    cls: bool,
    embeddings: list[torch.Tensor],
    layers: list[list[torch.Tensor]],
    heads: int,
    epsilon: float,
) -> torch.Tensor:
    ids, rows, starts = numbers[:tokens], numbers[tokens : 2 * tokens], numbers[2 * tokens :]
    words, positions, weight, bias = embeddings
    exact = words.dtype == torch.float32
    hidden = functional.embedding(ids, words) + functional.embedding(rows, positions)
    shape = hidden.shape[1:]
    hidden = functional.layer_norm(hidden, shape, weight, bias, epsilon)
    for layer in layers:
        qkv, qkv_b, out, out_b, norm_1, norm_1_b, up, up_b, down, down_b, norm_2, norm_2_b = layer
        projected = functional.linear(hidden, qkv, qkv_b)
        attended = _attended(projected, starts, longest, heads, flash)
        hidden = hidden + functional.linear(attended, out, out_b)
        hidden = functional.layer_norm(hidden, shape, norm_1, norm_1_b, epsilon)
        if exact:
            inner = functional.gelu(functional.linear(hidden, up, up_b))
        else:
            # one kernel, with the approximation of GELU by tanh: its error is below that of halves
            inner = torch._addmm_activation(up_b, hidden, up.t(), use_gelu=True)
        hidden = hidden + functional.linear(inner, down, down_b)
        hidden = functional.layer_norm(hidden, shape, norm_2, norm_2_b, epsilon)
    if cls:
        return hidden[starts[:-1]].float()
    every = torch.arange(tokens, dtype=torch.int32, device=hidden.device)
    means = functional.embedding_bag(every, hidden, starts, mode="mean", include_last_offset=True)
    return means.float()
