"""A BERT in memory, for inference alone.

`transformers` has the same and takes three seconds to import, longer than a hundred texts take to
encode. Architecture: Devlin et al. 2019, arxiv.org/abs/1810.04805; names as in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from embeddings_pipeline.encoders.bert_forward import forward_pass

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# rows for which oneDNN chooses the order of a packed weight; others are right too
_ROWS = 2048


class Group(NamedTuple):
    """So many texts, one behind the other, of so many tokens each."""

    texts: int
    tokens: int


class Bert:
    """The weights of a checkpoint. Raises KeyError where one is missing.

    In bfloat16 on a CPU the weights of linear layers are put into oneDNN's own order once rather
    than in each call.
    """

    def __init__(
        self, weights: Path, config: dict[str, Any], *, device: str, dtype: torch.dtype
    ) -> None:
        import torch
        from safetensors.torch import load_file

        stored = load_file(weights, device=device)
        packed = (
            device == "cpu"
            and dtype == torch.bfloat16
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        )

        def affine(*names: str) -> list[Tensor]:
            # query, key and value as one product
            return [
                torch.cat([stored[f"{name}.{part}"] for name in names]).to(dtype)
                for part in ("weight", "bias")
            ]

        def linear(*names: str) -> list[Tensor]:
            weight, bias = affine(*names)
            if packed:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            return [weight, bias]

        # every text is of the first segment
        positions = (
            stored["embeddings.position_embeddings.weight"]
            + stored["embeddings.token_type_embeddings.weight"][0]
        )
        self._embeddings = [
            stored["embeddings.word_embeddings.weight"].to(dtype),
            positions.to(dtype),
            *affine("embeddings.LayerNorm"),
        ]
        self._layers = [
            [
                *linear(*(f"{name}.attention.self.{part}" for part in ("query", "key", "value"))),
                *linear(f"{name}.attention.output.dense"),
                *affine(f"{name}.attention.output.LayerNorm"),
                *linear(f"{name}.intermediate.dense"),
                *linear(f"{name}.output.dense"),
                *affine(f"{name}.output.LayerNorm"),
            ]
            for name in (f"encoder.layer.{n}" for n in range(int(config["num_hidden_layers"])))
        ]
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._forward = forward_pass(device, packed=packed)

    def __call__(self, ids: Tensor, groups: Sequence[Group]) -> Tensor:
        """The last hidden states, shape (tokens, hidden), of the token ids of texts one behind the
        other, shape (tokens,), nothing of which is padding; `groups` says where texts end."""
        import torch

        places = torch.cat([torch.arange(group.tokens).repeat(group.texts) for group in groups])
        return self._forward(
            ids,
            places.to(ids.device),
            [(group.texts, group.tokens) for group in groups],
            self._embeddings,
            self._layers,
            self._heads,
            self._epsilon,
        )
