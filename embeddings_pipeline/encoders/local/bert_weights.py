"""Reads the weights of a BERT from a checkpoint, in the order in which a forward pass uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from embeddings_pipeline.encoders.local.model_files import first_position

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BertWeights(NamedTuple):
    """The weights and settings of a BERT.

    `embeddings` are those of words and of positions, and the weight and bias of their layer norm.
    Each layer has six pairs of a weight and a bias: query, key and value as one product, the output
    of attention, its layer norm, the two products of the feed-forward part, its layer norm.
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

    # every token belongs to the first segment
    positions = (
        stored["embeddings.position_embeddings.weight"][first_position(config) :]
        + stored["embeddings.token_type_embeddings.weight"][0]
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
