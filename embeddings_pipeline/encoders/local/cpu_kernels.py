"""Two ways to compute attention on a CPU, and two for GELU. Importing it imports torch.

Which way is faster depends on the processor: where it multiplies matrices fast, as with AMX, passes
over memory decide. So the ways are timed once for a machine and the shapes of a model, and the
choice is remembered. The vectors differ by the rounding of the last bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from embeddings_pipeline.encoders.local.devices import processor
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.settings import user_cache_dir

# number of rows that oneDNN optimises the packed weights for; other numbers also work
_ROWS = 2048


class Kernels(NamedTuple):
    """Attention over texts of up to `exp_tokens` tokens takes `attention_by_exp`, and over longer
    ones `attention_by_torch`. `fused_gelu` is whether a product with packed weights computes the
    GELU that follows it."""

    exp_tokens: int
    fused_gelu: bool


class Shape(NamedTuple):
    """The sizes of a model's layers: of a token's hidden state, of the state between the two
    products of the feed-forward part, and the number of attention heads."""

    hidden: int
    inner: int
    heads: int


def attention_by_torch(qkv: Tensor) -> Tensor:
    """softmax(QK'/sqrt(d))V, arxiv.org/abs/1706.03762, from q, k and v, shape (3, texts, heads,
    tokens, d)."""
    return functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])


def attention_by_exp(qkv: Tensor) -> Tensor:
    """The same by two products, exp() and a division by the sums.

    torch's softmax computes the last tokens % 32 scores of each row one by one, and takes up to six
    times as long for it. exp() and a sum need no maximum subtracted: keys less their mean have the
    same softmax, and scores whose mean is 0, so that only large sums are out of range.
    """
    q, k, v = qkv.contiguous().flatten(1, 2).unbind(0)
    weights = torch.baddbmm(
        torch.empty(1, dtype=q.dtype),
        q,
        (k - k.mean(1, keepdim=True)).transpose(1, 2),
        beta=0,
        alpha=float(q.shape[2]) ** -0.5,
    ).exp_()
    sums = weights.sum(-1, keepdim=True)
    # bfloat16 and float32 go up to 3e38, which leaves a factor of 3,000 for the values
    if float(sums.amax()) < 1e35:
        return (torch.bmm(weights, v) / sums).view(qkv.shape[1:])
    return attention_by_torch(qkv)


def packs_weights(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies with weights that `packed` has reordered."""
    return (
        dtype == torch.bfloat16
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def packed(weight: Tensor) -> Tensor:
    """Return the weight of a linear layer, reordered once rather than in each product."""
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return reordered


def packed_linear(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product of a linear layer whose weight is packed."""
    # the private operation that torch.compile emits for a frozen model
    product: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return product


def packed_linear_gelu(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The GELU of the same product, computed before the product is stored."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "gelu", [], "none")
    return made


# the scores of longer texts would take gigabytes
_MAX_EXP_TOKENS = 1024
TORCH = Kernels(0, False)


def kernels_for(option: str, shape: Shape, dtype: torch.dtype) -> Kernels:
    """Return the kernels that EMBEDDING_CPU_KERNELS names: `torch` has torch's own, `exp` the
    others, and `auto` those that are fastest on this machine in a thread as the caller's."""
    # exp() of a score is soon out of the range of float16
    if option == "torch" or dtype == torch.float16:
        return TORCH
    if option == "exp":
        return Kernels(_MAX_EXP_TOKENS, packs_weights(dtype))
    remembered = _remembered(shape, dtype)
    with suppress(OSError, ValueError, TypeError):
        return Kernels(*json.loads(remembered.read_text()))
    kernels = _fastest(shape, dtype)
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(remembered, json.dumps(kernels))
    return kernels


def _remembered(shape: Shape, dtype: torch.dtype) -> Path:
    # the folder may be shared by machines
    decides = (*shape, str(dtype), torch.__version__, torch.get_num_threads(), processor())
    name = sha256(json.dumps(decides).encode()).hexdigest()
    return user_cache_dir() / "kernels" / name


# tokens of a batch; the lengths that are timed, each for a range of lengths that it decides; how
# often, and how much faster torch's way has to be
_BATCH_TOKENS = 512
_TIMED = {28: 32, 56: 64, 112: 128, 224: 256, 448: _MAX_EXP_TOKENS}
_REPEATS = 9
_GAIN = 1.05


@torch.inference_mode()
def _fastest(shape: Shape, dtype: torch.dtype) -> Kernels:
    exp_tokens = 0
    for length, longest in _TIMED.items():
        texts = max(1, _BATCH_TOKENS // length)
        width = shape.hidden // shape.heads
        qkv = torch.randn(texts, length, 3, shape.heads, width, dtype=dtype).permute(2, 0, 3, 1, 4)
        exp, own = milliseconds([attention_by_exp, attention_by_torch], qkv)
        if exp > own * _GAIN:
            break
        exp_tokens = longest
    if not packs_weights(dtype):
        return Kernels(exp_tokens, False)
    hidden = torch.randn(_BATCH_TOKENS, shape.hidden, dtype=dtype)
    weight = packed(torch.randn(shape.inner, shape.hidden, dtype=dtype))
    bias = torch.zeros(shape.inner, dtype=dtype)
    fused, apart = milliseconds([packed_linear_gelu, _linear_then_gelu], hidden, weight, bias)
    return Kernels(exp_tokens, fused <= apart * _GAIN)


def _linear_then_gelu(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(packed_linear(hidden, weight, bias))


def milliseconds(
    ways: Sequence[Callable[..., object]], *arguments: Tensor, repeats: int = _REPEATS
) -> list[float]:
    """The least time of some calls of each way, which take turns, so that other work on the machine
    delays them alike."""
    least = [float("inf")] * len(ways)
    for _ in range(repeats):
        for number, way in enumerate(ways):
            started = time.perf_counter()
            way(*arguments)
            least[number] = min(least[number], 1000 * (time.perf_counter() - started))
    return least
