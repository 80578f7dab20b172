"""The weights of a BERT or an XLM-RoBERTa, and its forward pass in plain torch.

Architecture: Devlin et al. 2019, arxiv.org/abs/1810.04805; weights are named as in its checkpoints.

On a CPU the forward pass is one TorchScript function. In Python the pass is a hundred small
operations, each of which takes the interpreter's lock; in a service with other busy threads,
waiting for the lock takes longer than the computation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from embeddings_pipeline.encoders.local.loaded_model import DEFAULT_LIMITS, Tokens
from embeddings_pipeline.encoders.local.model_files import padding_id
from embeddings_pipeline.entities.model import Vectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from embeddings_pipeline.encoders.local.cpu_kernels import Kernels

Pooling: TypeAlias = Literal["mean", "cls"]
F = TypeVar("F", bound=Callable[..., Any])


class BertWeights(NamedTuple):
    """The weights and settings of a BERT.

    `embeddings` are those of words and of positions, whose rows `rows_of_positions` gives, and the
    weight and bias of their layer norm. Each layer has six pairs of a weight and a bias: query, key
    and value as one product, the output of attention, its layer norm, the two products of the
    feed-forward part, its layer norm.
    """

    embeddings: list[Tensor]
    layers: list[list[Tensor]]
    heads: int
    epsilon: float


def read_weights(
    path: Path,
    config: dict[str, Any],
    *,
    device: str,
    dtype: torch.dtype,
    pack: Callable[[Tensor], Tensor] = lambda weight: weight,
) -> BertWeights:
    """Read a checkpoint; `pack` prepares the weight of each linear layer for the device.

    Raises KeyError where a weight is missing.
    """
    import torch
    from safetensors.torch import load_file

    stored = load_file(path, device=device)

    def affine(*names: str) -> list[Tensor]:
        # query, key and value are computed by one matrix product
        return [
            torch.cat([stored[f"{name}.{part}"] for name in names]).to(dtype)
            for part in ("weight", "bias")
        ]

    def linear(*names: str) -> list[Tensor]:
        weight, bias = affine(*names)
        return [pack(weight), bias]

    # every token belongs to the first segment; summed in float32, since the file may have less
    positions = (
        stored["embeddings.position_embeddings.weight"][padding_id(config) or 0 :].float()
        + stored["embeddings.token_type_embeddings.weight"][0].float()
    )
    return BertWeights(
        embeddings=[
            stored["embeddings.word_embeddings.weight"].to(dtype),
            positions.to(dtype),
            *affine("embeddings.LayerNorm"),
        ],
        layers=[
            [
                *linear(*(f"{name}.attention.self.{part}" for part in ("query", "key", "value"))),
                *linear(f"{name}.attention.output.dense"),
                *affine(f"{name}.attention.output.LayerNorm"),
                *linear(f"{name}.intermediate.dense"),
                *linear(f"{name}.output.dense"),
                *affine(f"{name}.output.LayerNorm"),
            ]
            for name in (f"encoder.layer.{n}" for n in range(int(config["num_hidden_layers"])))
        ],
        heads=int(config["num_attention_heads"]),
        epsilon=float(config["layer_norm_eps"]),
    )


def rows_of_positions(
    ids: Tokens, texts: Sequence[Tokens], padding: int | None
) -> NDArray[np.int32]:
    """Return the row of the position embeddings for each token id of consecutive texts, shape
    (tokens,).

    Where positions begin after the row of `padding`, a text may spell that token: it has that row,
    and the tokens behind it count as if it were not there (create_position_ids_from_input_ids in
    transformers).
    """
    lengths = np.fromiter(map(len, texts), np.int32, len(texts))
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    rows = np.arange(len(ids), dtype=np.int32) - np.repeat(starts, lengths)
    if padding is None:
        return rows
    spelled = ids == padding
    if spelled.any():
        count = np.cumsum(spelled, dtype=np.int32)
        rows -= count - np.repeat(count[starts] - spelled[starts], lengths)
        rows[spelled] = -1
    rows += 1
    return rows


class Group(NamedTuple):
    """Consecutive texts of one length: the number of texts, and the tokens of each."""

    texts: int
    tokens: int


class Bert:
    """A BERT on any device, whose batches hold texts of like length. Thread-safe.

    In bfloat16 on a CPU the weights of linear layers are reordered for oneDNN once, not in each
    call. Raises KeyError where a weight is missing.
    """

    limits = DEFAULT_LIMITS

    def __init__(
        self,
        weights: Path,
        config: dict[str, Any],
        pooling: Pooling,
        kernels: Kernels,
        *,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        from embeddings_pipeline.encoders.local.cpu_kernels import packed, packs_weights

        packs = device == "cpu" and packs_weights(dtype)
        pack = {"pack": packed} if packs else {}
        self._weights = read_weights(weights, config, device=device, dtype=dtype, **pack)
        self._pooling = pooling
        self._padding = padding_id(config)
        self._device = device
        self._exp_tokens = kernels.exp_tokens
        self._forward = forward_pass(device, packed=packs, fused_gelu=kernels.fused_gelu)

    def vectors(self, texts: Sequence[Tokens]) -> Vectors:
        """Return the pooled token vectors of each text, float32, shape (texts, dimension)."""
        import torch

        groups = [Group(len([*same]), length) for length, same in groupby(map(len, texts))]
        ids = np.concatenate(texts)
        rows = rows_of_positions(ids, texts, self._padding)
        with torch.inference_mode():
            hidden = self._forward(
                torch.from_numpy(ids).long().to(self._device),
                torch.from_numpy(rows).long().to(self._device),
                [(group.texts, group.tokens) for group in groups],
                self._exp_tokens,
                *self._weights,
            ).float()
            parts = [
                part.view(*group, -1)
                for part, group in zip(
                    torch.split(hidden, [group.texts * group.tokens for group in groups]),
                    groups,
                    strict=True,
                )
            ]
            pooled = [part[:, 0] if self._pooling == "cls" else part.mean(1) for part in parts]
            vectors: Vectors = torch.cat(pooled).cpu().numpy()
        return vectors


if TYPE_CHECKING:
    Forward: TypeAlias = Callable[
        [
            torch.Tensor,
            torch.Tensor,
            list[tuple[int, int]],
            int,
            list[torch.Tensor],
            list[list[torch.Tensor]],
            int,
            float,
        ],
        torch.Tensor,
    ]


def forward_pass(device: str, *, packed: bool, fused_gelu: bool) -> Forward:
    """Return the forward pass for a device; `packed` says whether weights are packed for oneDNN,
    and `fused_gelu` whether a product computes the GELU that follows it.

    The arguments of the forward pass:
    - token ids of consecutive texts, shape (tokens,)
    - the row of the position embeddings for each token, shape (tokens,)
    - (number of texts, tokens of each) for each group of texts of one length
    - the tokens of the longest text for `attention_by_exp`
    - word embeddings, position embeddings, and the weight and bias of their layer norm
    - the weights of each layer, in the order of use
    - the number of attention heads
    - the epsilon of layer norms

    Returns the last hidden states, shape (tokens, hidden).
    """
    import torch
    from torch.nn import functional

    from embeddings_pipeline.encoders.local.cpu_kernels import (
        attention_by_exp,
        attention_by_torch,
        packed_linear,
        packed_linear_gelu,
    )

    def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden, weight, bias)

    product = packed_linear if packed else linear

    def activated(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.gelu(product(hidden, weight, bias))

    expanded = packed_linear_gelu if fused_gelu else activated

    def forward(
        ids: torch.Tensor,
        rows: torch.Tensor,
        groups: list[tuple[int, int]],
        exp_tokens: int,
        embeddings: list[torch.Tensor],
        layers: list[list[torch.Tensor]],
        heads: int,
        epsilon: float,
    ) -> torch.Tensor:
        words, positions, weight, bias = embeddings
        hidden = words[ids] + positions[rows]
        shape = hidden.shape[1:]
        hidden = functional.layer_norm(hidden, shape, weight, bias, epsilon)
        for layer in layers:
            # each weight is followed by its bias
            qkv, qkv_b, out, out_b, norm_1, norm_1_b, up, up_b, down, down_b, norm_2, norm_2_b = (
                layer
            )
            projected = product(hidden, qkv, qkv_b)
            attended = torch.empty_like(hidden)
            start = 0
            for texts, tokens in groups:
                end = start + texts * tokens
                parts = projected[start:end].view(texts, tokens, 3, heads, -1)
                parts = parts.permute(2, 0, 3, 1, 4)
                if tokens <= exp_tokens:
                    mixed = attention_by_exp(parts)
                else:
                    mixed = attention_by_torch(parts)
                attended[start:end].view(texts, tokens, heads, -1).copy_(mixed.transpose(1, 2))
                start = end
            hidden = hidden + product(attended, out, out_b)
            hidden = functional.layer_norm(hidden, shape, norm_1, norm_1_b, epsilon)
            inner = expanded(hidden, up, up_b)
            hidden = hidden + product(inner, down, down_b)
            hidden = functional.layer_norm(hidden, shape, norm_2, norm_2_b, epsilon)
        return hidden

    # torch.compile takes 43 s, and this 0.02 s
    return forward if device != "cpu" else scripted(forward)


def scripted(function: F) -> F:
    """Return a function as TorchScript, without the warning that recommends torch.compile, whose
    category depends on torch's version."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`")
        compiled: F = torch.jit.script(function)
    return compiled
