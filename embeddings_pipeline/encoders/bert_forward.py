"""What a BERT computes, in operations of torch alone.

Python starts a hundred small operations for each batch and takes the interpreter's lock before
each; beside other threads that are at work, as those of a service are, it waits for that longer
than it computes. As TorchScript a whole pass is one operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

    Forward: TypeAlias = Callable[
        [
            torch.Tensor,
            torch.Tensor,
            list[tuple[int, int]],
            list[torch.Tensor],
            list[list[torch.Tensor]],
            int,
            float,
        ],
        torch.Tensor,
    ]


def forward_pass(device: str, *, packed: bool) -> Forward:
    """The function of a model on this device, whose linear weights are `packed` for oneDNN or not.

    It takes the ids of tokens, of texts one behind the other, shape (tokens,), and the place of
    each in its text; how many texts of how many tokens each follow one another; the embeddings of
    words and of places, and their normalisation; the weights of each layer, in the order in which
    they are used; heads; and the epsilon of normalisations. It gives the last hidden states, shape
    (tokens, hidden).
    """
    import torch
    from torch.nn import functional

    def linear(
        hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool
    ) -> torch.Tensor:
        product = functional.linear(hidden, weight, bias)
        return functional.gelu(product) if gelu else product

    def packed_linear(
        hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool
    ) -> torch.Tensor:
        # what `torch.compile` makes of a frozen model; not for the public
        after, how = ("gelu", "none") if gelu else ("none", "")
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden, weight, bias, after, [], how
        )
        return product

    # softmax(QK'/sqrt(d))V, each of shape (texts, heads, tokens, d)
    def mixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    # the fused kernel of torch takes up to twice as long for texts of these lengths
    def mixed_on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scale = float(q.shape[-1]) ** -0.5
        queries, keys, values = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        scores = torch.baddbmm(
            torch.empty(1, dtype=q.dtype), queries, keys.transpose(1, 2), beta=0, alpha=scale
        )
        return torch.bmm(scores.softmax(-1), values).view(q.shape)

    product = packed_linear if packed else linear
    mix = mixed_on_cpu if device == "cpu" else mixed

    def forward(
        ids: torch.Tensor,
        places: torch.Tensor,
        groups: list[tuple[int, int]],
        embeddings: list[torch.Tensor],
        layers: list[list[torch.Tensor]],
        heads: int,
        epsilon: float,
    ) -> torch.Tensor:
        words, positions, weight, bias = embeddings
        hidden = words[ids] + positions[places]
        shape = hidden.shape[1:]
        hidden = functional.layer_norm(hidden, shape, weight, bias, epsilon)
        for layer in layers:
            # weight and bias of each of these
            qkv, qkv_b, out, out_b, norm_1, norm_1_b, up, up_b, down, down_b, norm_2, norm_2_b = (
                layer
            )
            projected = product(hidden, qkv, qkv_b, False)
            attended = torch.empty_like(hidden)
            start = 0
            for texts, tokens in groups:
                end = start + texts * tokens
                parts = projected[start:end].view(texts, tokens, 3, heads, -1)
                parts = parts.permute(2, 0, 3, 1, 4)
                part = mix(parts[0], parts[1], parts[2]).transpose(1, 2)
                attended[start:end].view(texts, tokens, heads, -1).copy_(part)
                start = end
            hidden = hidden + product(attended, out, out_b, False)
            hidden = functional.layer_norm(hidden, shape, norm_1, norm_1_b, epsilon)
            inner = product(hidden, up, up_b, True)
            hidden = hidden + product(inner, down, down_b, False)
            hidden = functional.layer_norm(hidden, shape, norm_2, norm_2_b, epsilon)
        return hidden

    if device != "cpu":
        return forward
    with warnings.catch_warnings():
        # torch advises `torch.compile`, which takes 43 s where this takes 0.02
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: Forward = torch.jit.script(forward)
    return scripted
