"""The forward pass of BERT, for inference alone.

`transformers` has the same and takes three seconds to import, longer than a hundred texts take to
encode. Architecture: Devlin et al. 2019, arxiv.org/abs/1810.04805; names as in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Group(NamedTuple):
    """So many texts, one behind the other, of so many tokens each."""

    texts: int
    tokens: int


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

    def __call__(self, ids: Tensor, groups: Sequence[Group]) -> Tensor:
        """The last hidden states, shape (tokens, hidden), of the token ids of texts one behind the
        other, shape (tokens,), nothing of which is padding; `groups` says where texts end."""
        import torch

        places = [torch.arange(group.tokens).repeat(group.texts) for group in groups]
        hidden = self._words[ids] + self._positions[torch.cat(places).to(ids.device)]
        hidden = self._normalised(hidden, self._norm)
        for layer in self._layers:
            attended = layer.attended(self._attention(layer.qkv(hidden), groups))
            hidden = self._normalised(hidden + attended, layer.attention_norm)
            hidden = self._normalised(hidden + layer.down(layer.up(hidden)), layer.output_norm)
        return hidden

    def _attention(self, qkv: Tensor, groups: Sequence[Group]) -> Tensor:
        """Of each text to itself: shape (tokens, hidden), of its (tokens, 3 * hidden)."""
        width = qkv.shape[1] // 3
        attended = qkv.new_empty(len(qkv), width)
        start = 0
        for texts, tokens in groups:
            end = start + texts * tokens
            query, key, value = (
                qkv[start:end].view(texts, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            )
            mixed = _mixed(query, key, value)
            attended[start:end].view(texts, tokens, self._heads, -1).copy_(mixed.transpose(1, 2))
            start = end
        return attended

    def _normalised(self, hidden: Tensor, norm: Affine) -> Tensor:
        from torch.nn import functional

        return functional.layer_norm(
            hidden, hidden.shape[-1:], norm.weight, norm.bias, self._epsilon
        )


def _mixed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(QK'/sqrt(d))V, each of shape (texts, heads, tokens, d)."""
    import torch
    from torch.nn import functional

    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value)
    # the fused kernel of torch takes up to twice as long for texts of these lengths
    q, k, v = (part.flatten(0, 1) for part in (query, key, value))
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v).view_as(query)
