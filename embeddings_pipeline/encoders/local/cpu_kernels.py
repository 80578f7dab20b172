"""Two ways to compute attention on a CPU, and two for GELU. Importing it imports torch.

Which way is faster depends on the processor: where it multiplies matrices fast, as with AMX, passes
over memory decide. So the ways are timed once for a machine and a model, and the choice is
remembered. In bfloat16 `attention_by_exp` rounds scores that torch's own attention does not: where
a model's vectors change by it, torch's own is taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from embeddings_pipeline.encoders.local.devices import processor
from embeddings_pipeline.encoders.local.loaded_model import CPU_LIMITS
from embeddings_pipeline.entities.model import Vectors
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


# oneDNN compiles a kernel for each shape of a product, which takes up to a millisecond and a
# megabyte, and keeps 1,024: sizes that depend on the texts are rounded up to multiples of this
_STEP = 16

# consecutive texts of one length: how many, and the tokens of each
Group: TypeAlias = tuple[int, int]
# groups whose lengths round up to the same number of tokens, and that number
Block: TypeAlias = tuple[int, list[Group]]


def rounded_up(size: int) -> int:
    """Return the size that a product with oneDNN should have in place of this one."""
    return -(-size // _STEP) * _STEP


def blocks_of(lengths: Iterable[int]) -> list[Block]:
    """Group consecutive texts of these lengths by the number of tokens to pad them to."""
    groups = ((len([*same]), tokens) for tokens, same in groupby(lengths))
    by_padded = groupby(groups, lambda group: rounded_up(group[1]))
    return [(padded, [*some]) for padded, some in by_padded]


def attention_by_torch(projected: Tensor, attended: Tensor, block: Block, heads: int) -> None:
    """Compute softmax(QK'/sqrt(d))V, arxiv.org/abs/1706.03762, for the texts of a block.

    `projected` holds query, key and value of each token, shape (tokens, 3 * hidden), and
    `attended` receives the result, shape (tokens, hidden).
    """
    _, groups = block
    start = 0
    for texts, tokens in groups:
        end = start + texts * tokens
        parts = projected[start:end].view(texts, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        made = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        attended[start:end].view(texts, tokens, heads, -1).copy_(made.transpose(1, 2))
        start = end


def attention_by_exp(projected: Tensor, attended: Tensor, block: Block, heads: int) -> None:
    """Compute the same by two products, exp() and a division by the sums.

    torch's softmax computes the last tokens % 32 scores of each row one by one, and takes up to six
    times as long for it. Where the sums are out of range, `attention_by_torch` computes the block.
    """
    padded, groups = block
    texts = 0
    for some, _ in groups:
        texts += some
    width = projected.size(1) // (3 * heads)
    dtype = projected.dtype
    # columns of ones behind the values make the second product compute the sums; 16 take as long as
    # one. Values of padding are 0, so that its weights count nowhere
    qk = torch.zeros([2, texts, heads, padded, width], dtype=dtype)
    v = torch.ones([texts, heads, padded, width + 16], dtype=dtype)
    first, start = 0, 0
    for some, tokens in groups:
        last, end = first + some, start + some * tokens
        parts = projected[start:end].view(some, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
        qk[:, first:last, :, :tokens].copy_(parts[:2])
        v[first:last, :, :tokens, :width].copy_(parts[2])
        v[first:last, :, tokens:].zero_()
        first, start = last, end
    q, k = qk.flatten(1, 2).unbind(0)
    none = torch.empty(1, dtype=dtype)
    weights = torch.baddbmm(none, q, k.transpose(1, 2), beta=0, alpha=float(width) ** -0.5).exp_()
    mixed = torch.bmm(weights, v.flatten(0, 1)).view(texts, heads, padded, -1)
    sums = mixed[:, :, :, width].contiguous()
    # float32 and bfloat16 go up to 3e38, and values may be as large as 3,000. A small sum is of
    # scores below -9, which bfloat16 rounds by 3 % and more; a large one may be of one score, whose
    # rounding the division undoes
    if float(sums.amin()) < 1e-4 or not float(sums.amax()) < 1e35:
        attention_by_torch(projected, attended, block, heads)
        return
    first, start = 0, 0
    for some, tokens in groups:
        last, end = first + some, start + some * tokens
        values = mixed[first:last, :, :tokens, :width]
        result = attended[start:end].view(some, tokens, heads, width).transpose(1, 2)
        torch.div(values, sums[first:last, :, :tokens, None], out=result)
        first, start = last, end


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
# of vectors in bfloat16 to those in float32, as a test asserts
_LEAST_COSINE = 0.999
_TINY = float(np.finfo(np.float32).tiny)


def kernels_for(
    option: str,
    shape: Shape,
    dtype: torch.dtype,
    revision: str,
    vectors: Callable[[Kernels], Vectors],
) -> Kernels:
    """Return the kernels that EMBEDDING_CPU_KERNELS names: `torch` has torch's own, `exp` the
    others, and `auto` those that are fastest on this machine in a thread as the caller's.

    `vectors` returns the vectors of some texts, computed with the given kernels: `auto` takes
    torch's own where those of the fastest differ. The choice is remembered for the `revision` of
    the model.
    """
    # exp() of a score is soon out of the range of float16
    if option == "torch" or dtype == torch.float16:
        return TORCH
    if option == "exp":
        return Kernels(_MAX_EXP_TOKENS, packs_weights(dtype))
    file = _choice_file(dtype, revision)
    if remembered := _remembered(file):
        return remembered
    kernels = _fastest(shape, dtype)
    if _least_cosine(vectors(kernels), vectors(TORCH)) < _LEAST_COSINE:
        kernels = TORCH
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(kernels))
    return kernels


def _choice_file(dtype: torch.dtype, revision: str) -> Path:
    # the folder may be shared by machines
    machine = (torch.__version__, torch.get_num_threads(), processor())
    decides = (revision, str(dtype), CPU_LIMITS.tokens, *machine)
    name = sha256(json.dumps(decides).encode()).hexdigest()
    return user_cache_dir() / "cpu_kernels" / name


def _remembered(file: Path) -> Kernels | None:
    with suppress(OSError, ValueError, TypeError, RecursionError):
        exp_tokens, fused_gelu = json.loads(file.read_text())
        # True is an int, too
        known = type(exp_tokens) is int and type(fused_gelu) is bool
        if known and 0 <= exp_tokens <= _MAX_EXP_TOKENS:
            return Kernels(exp_tokens, fused_gelu)
    return None


def _least_cosine(left: Vectors, right: Vectors) -> float:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / np.maximum(lengths, _TINY)).min())


# the lengths that are timed, each for a range of lengths that it decides; how often, and how much
# faster torch's way has to be
_TIMED = {28: 32, 56: 64, 112: 128, 224: 256, 448: _MAX_EXP_TOKENS}
_REPEATS = 5
_GAIN = 1.05


@torch.inference_mode()
def _fastest(shape: Shape, dtype: torch.dtype) -> Kernels:
    exp_tokens = 0
    for length, longest in _TIMED.items():
        texts = max(1, CPU_LIMITS.tokens // length)
        projected = torch.randn(texts * length, 3 * shape.hidden, dtype=dtype)
        attended = torch.empty(texts * length, shape.hidden, dtype=dtype)
        (block,) = blocks_of([length] * texts)
        exp, own = milliseconds(
            [attention_by_exp, attention_by_torch], projected, attended, block, shape.heads
        )
        if exp > own * _GAIN:
            break
        exp_tokens = longest
    if not packs_weights(dtype):
        return Kernels(exp_tokens, False)
    hidden = torch.randn(CPU_LIMITS.tokens, shape.hidden, dtype=dtype)
    weight = packed(torch.randn(shape.inner, shape.hidden, dtype=dtype))
    bias = torch.zeros(shape.inner, dtype=dtype)
    fused, apart = milliseconds([packed_linear_gelu, _linear_then_gelu], hidden, weight, bias)
    return Kernels(exp_tokens, fused <= apart * _GAIN)


def _linear_then_gelu(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(packed_linear(hidden, weight, bias))


def milliseconds(
    ways: Sequence[Callable[..., object]], *arguments: object, repeats: int = _REPEATS
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
