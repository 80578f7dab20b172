"""The forward pass of BERT, for inference alone.

`transformers` has the same and takes three seconds to import, longer than a hundred texts take to
encode. Architecture: Devlin et al. 2019, arxiv.org/abs/1810.04805; names as in its checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# rows for which oneDNN chooses the order of a packed weight; others are right too
_ROWS = 2048


class Affine(NamedTuple):
    """A weight and its bias: of a linear layer, or of a normalisation."""

    weight: Tensor
    bias: Tensor


class Linear:
    """A product with a weight, and gelu after it where told.

    In bfloat16 on a CPU the weight is put into oneDNN's own order once rather than in each call, as
    `torch.compile` does when it freezes a model; the operations are torch's, not for the public.
    """

    def __init__(self, affine: Affine, *, gelu: bool = False) -> None:
        import torch

        weight, self._bias = affine
        self._gelu = gelu
        self._packs = (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        )
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._packs else weight
        )

    def __call__(self, hidden: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        if self._packs:
            after: tuple[str, list[float], str] = (
                ("gelu", [], "none") if self._gelu else ("none", [], "")
            )
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                hidden, self._weight, self._bias, *after
            )
            return product
        product = functional.linear(hidden, self._weight, self._bias)
        return functional.gelu(product) if self._gelu else product


class Layer(NamedTuple):
    """One block: attention, then two linear layers, each with a normalised residual."""

    qkv: Linear
    attended: Linear
    attention_norm: Affine
    up: Linear
    down: Linear
    output_norm: Affine


class Bert:
    """The weights of a checkpoint. Raises KeyError where one is missing."""

    def __init__(
        self, weights: Path, config: dict[str, Any], *, device: str, dtype: torch.dtype
    ) -> None:
        import torch
        from safetensors.torch import load_file

        stored = load_file(weights, device=device)

        def affine(*names: str) -> Affine:
            # query, key and value as one product
            return Affine(
                torch.cat([stored[f"{name}.weight"] for name in names]).to(dtype),
                torch.cat([stored[f"{name}.bias"] for name in names]).to(dtype),
            )

        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._words = stored["embeddings.word_embeddings.weight"].to(dtype)
        # every text is of the first segment
        self._positions = (
            stored["embeddings.position_embeddings.weight"]
            + stored["embeddings.token_type_embeddings.weight"][0]
        ).to(dtype)
        self._norm = affine("embeddings.LayerNorm")
        self._layers = [
            Layer(
                Linear(
                    affine(*(f"{name}.attention.self.{part}" for part in ("query", "key", "value")))
                ),
                Linear(affine(f"{name}.attention.output.dense")),
                affine(f"{name}.attention.output.LayerNorm"),
                Linear(affine(f"{name}.intermediate.dense"), gelu=True),
                Linear(affine(f"{name}.output.dense")),
                affine(f"{name}.output.LayerNorm"),
            )
            for name in (f"encoder.layer.{n}" for n in range(int(config["num_hidden_layers"])))
        ]

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The last hidden states, shape (texts, tokens, hidden), of token ids of shape (texts,
        tokens); `mask` is true where there is a token, None where there is one everywhere."""
        hidden = self._words[ids] + self._positions[: ids.shape[1]]
        hidden = self._normalised(hidden, self._norm)
        seen = None if mask is None else mask[:, None, None, :]
        for layer in self._layers:
            attended = layer.attended(self._attention(hidden, layer, seen))
            hidden = self._normalised(hidden + attended, layer.attention_norm)
            hidden = self._normalised(hidden + layer.down(layer.up(hidden)), layer.output_norm)
        return hidden

    def _attention(self, hidden: Tensor, layer: Layer, seen: Tensor | None) -> Tensor:
        from torch.nn import functional

        texts, tokens, width = hidden.shape
        qkv = layer.qkv(hidden).view(texts, tokens, 3, self._heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return mixed.transpose(1, 2).reshape(texts, tokens, width)

    def _normalised(self, hidden: Tensor, norm: Affine) -> Tensor:
        from torch.nn import functional

        return functional.layer_norm(
            hidden, hidden.shape[-1:], norm.weight, norm.bias, self._epsilon
        )
