"""The weights of a BERT or an XLM-RoBERTa, and its forward pass in plain torch.

Architecture: Devlin et al. 2019, arxiv.org/abs/1810.04805; weights are named as in its checkpoints.

On a CPU the forward pass is one TorchScript function. In Python the pass is a hundred small
operations, each of which takes the interpreter's lock; in a service with other busy threads,
waiting for the lock takes longer than the computation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from embeddings_pipeline.encoders.local.cpu_kernels import (
    Block,
    Kernels,
    attention_by_exp,
    attention_by_torch,
    blocks_of,
    packed,
    packed_linear,
    packed_linear_gelu,
    packs_weights,
    rounded_up,
)
from embeddings_pipeline.encoders.local.loaded_model import CPU_LIMITS, DEFAULT_LIMITS, Tokens
from embeddings_pipeline.encoders.local.model_files import padding_id
from embeddings_pipeline.entities.model import Vectors

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
    packs: bool = False,
) -> BertWeights:
    """Read a checkpoint; `packs` is whether to reorder the weights of linear layers for oneDNN.

    Raises KeyError where a weight is missing, and ValueError where one has another shape than
    `config` says.
    """
    stored = load_file(path, device=device)
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])

    def tensor(name: str, *shape: int) -> Tensor:
        found = stored[name]
        if tuple(found.shape) != shape:
            raise ValueError(
                f"{name} has the shape {tuple(found.shape)}, and by config.json {shape}"
            )
        return found

    def table(name: str, size: str) -> Tensor:
        # the config may leave the number of rows to the default
        rows = int(config.get(size, len(stored[f"embeddings.{name}.weight"])))
        return tensor(f"embeddings.{name}.weight", rows, hidden)

    def norm(name: str) -> list[Tensor]:
        return [tensor(f"{name}.{part}", hidden).to(dtype) for part in ("weight", "bias")]

    def linear(outputs: int, inputs: int, *names: str) -> list[Tensor]:
        # query, key and value are computed by one matrix product
        weight = torch.cat([tensor(f"{name}.weight", outputs, inputs) for name in names]).to(dtype)
        bias = torch.cat([tensor(f"{name}.bias", outputs) for name in names]).to(dtype)
        return [packed(weight) if packs else weight, bias]

    # every token belongs to the first segment; summed in float32, since the file may have less
    positions = (
        table("position_embeddings", "max_position_embeddings")[padding_id(config) or 0 :].float()
        + table("token_type_embeddings", "type_vocab_size")[0].float()
    )
    return BertWeights(
        embeddings=[
            table("word_embeddings", "vocab_size").to(dtype),
            positions.to(dtype),
            *norm("embeddings.LayerNorm"),
        ],
        layers=[
            [
                *linear(
                    hidden,
                    hidden,
                    *(f"{name}.attention.self.{part}" for part in ("query", "key", "value")),
                ),
                *linear(hidden, hidden, f"{name}.attention.output.dense"),
                *norm(f"{name}.attention.output.LayerNorm"),
                *linear(inner, hidden, f"{name}.intermediate.dense"),
                *linear(hidden, inner, f"{name}.output.dense"),
                *norm(f"{name}.output.LayerNorm"),
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


class Bert:
    """A BERT on any device, whose batches hold texts of like length. Thread-safe.

    In bfloat16 on a CPU the weights of linear layers are reordered for oneDNN once, not in each
    call. Raises KeyError and ValueError for weights that do not fit `config`.
    """

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
        packs = device == "cpu" and packs_weights(dtype)
        self._weights = read_weights(weights, config, device=device, dtype=dtype, packs=packs)
        self.limits = CPU_LIMITS if device == "cpu" else DEFAULT_LIMITS
        self._pooling = pooling
        self._padding = padding_id(config)
        self._device = device
        self._exp_tokens = kernels.exp_tokens
        self._forward = forward_pass(device, packs=packs, fused_gelu=kernels.fused_gelu)

    def vectors(self, texts: Sequence[Tokens]) -> Vectors:
        """Return the pooled token vectors of each text, float32, shape (texts, dimension)."""
        ids = np.concatenate(texts)
        numbers = np.zeros((2, rounded_up(len(ids))), np.int64)
        numbers[:, : len(ids)] = ids, rows_of_positions(ids, texts, self._padding)
        blocks = blocks_of(map(len, texts))
        groups = [group for _, block in blocks for group in block]
        # optimizing the pass takes 50 ms in the first two batches of a process, and gains nothing
        unoptimized = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.inference_mode(), unoptimized:
            placed, rows = torch.from_numpy(numbers).to(self._device)
            hidden = self._forward(placed, rows, blocks, self._exp_tokens, *self._weights)
            sizes = [count * tokens for count, tokens in groups]
            parts = torch.split(hidden[: len(ids)].float(), sizes)
            shaped = [part.view(*group, -1) for part, group in zip(parts, groups, strict=True)]
            pooled = [part[:, 0] if self._pooling == "cls" else part.mean(1) for part in shaped]
            vectors: Vectors = torch.cat(pooled).cpu().numpy()
        return vectors


def forward_pass(device: str, *, packs: bool, fused_gelu: bool) -> Callable[..., Tensor]:
    """Return the forward pass for a device; `packs` is whether weights are packed for oneDNN, and
    `fused_gelu` whether a product computes the GELU that follows it.

    The arguments of the forward pass:
    - token ids of consecutive texts, shape (tokens,); any id may follow
    - the row of the position embeddings for each token, shape (tokens,)
    - the blocks of the texts
    - the greatest padded length of a text for `attention_by_exp`
    - word embeddings, position embeddings, and the weight and bias of their layer norm
    - the weights of each layer, in the order of use
    - the number of attention heads
    - the epsilon of layer norms

    Returns the last hidden states, shape (tokens, hidden).
    """
    product = packed_linear if packs else functional.linear

    def activated(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.gelu(product(hidden, weight, bias))

    expanded = packed_linear_gelu if fused_gelu else activated

    def forward(
        ids: Tensor,
        rows: Tensor,
        blocks: list[Block],
        exp_tokens: int,
        embeddings: list[Tensor],
        layers: list[list[Tensor]],
        heads: int,
        epsilon: float,
    ) -> Tensor:
        words, positions, weight, bias = embeddings
        hidden = words[ids] + positions[rows]
        shape = hidden.shape[1:]
        hidden = functional.layer_norm(hidden, shape, weight, bias, epsilon)
        attended = torch.zeros_like(hidden)
        for layer in layers:
            # each weight is followed by its bias
            qkv, qkv_b, out, out_b, norm_1, norm_1_b, up, up_b, down, down_b, norm_2, norm_2_b = (
                layer
            )
            projected = product(hidden, qkv, qkv_b)
            start = 0
            for block in blocks:
                padded, groups = block
                end = start
                for texts, tokens in groups:
                    end += texts * tokens
                before, after = projected[start:end], attended[start:end]
                if padded <= exp_tokens:
                    attention_by_exp(before, after, block, heads)
                else:
                    attention_by_torch(before, after, block, heads)
                start = end
            hidden = product(attended, out, out_b).add_(hidden)
            hidden = functional.layer_norm(hidden, shape, norm_1, norm_1_b, epsilon)
            inner = expanded(hidden, up, up_b)
            hidden = product(inner, down, down_b).add_(hidden)
            hidden = functional.layer_norm(hidden, shape, norm_2, norm_2_b, epsilon)
        return hidden

    # torch.compile takes 43 s, and this 0.02 s
    return forward if device != "cpu" else scripted(forward)


def scripted(function: F) -> F:
    """Return a function as TorchScript, without the warning that recommends torch.compile, whose
    category depends on torch's version."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`")
        compiled: F = torch.jit.script(function)
    return compiled
