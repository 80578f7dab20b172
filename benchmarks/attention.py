"""Three ways to compute attention on a CPU in bfloat16, by the length of the texts.

One layer of a model with 12 heads of 32 dimensions, one thread, texts of 512 tokens together:
`torch` is scaled_dot_product_attention; `softmax` two products and torch's softmax; `exp` two
products, exp() and a division by the sums, as in encoders/local/bert.py. Prints milliseconds of
processor time, the least of many, one JSON line for each length. On a processor with AMX they show
whether `exp` is the right choice there, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.scratch import report

_HEADS, _WIDTH, _TOKENS = 12, 32, 512
# most texts have a length between the multiples of 32 with which vectors are filled
_LENGTHS = (4, 11, 16, 24, 30, 32, 48, 57, 64, 100, 127, 128, 150, 200, 250, 256, 384, 512, 1024)
_REPEATS = 30
# bytes, somewhat less than the largest block by which glibc learns
_FREED = 31 << 20


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    # as where weights were freed: glibc then keeps freed memory, of which each new page takes time
    torch.empty(_FREED, dtype=torch.uint8)
    with torch.inference_mode():
        for length in _LENGTHS:
            texts = max(_TOKENS // length, 1)
            projected = torch.randn(texts, length, 3, _HEADS, _WIDTH, dtype=torch.bfloat16)
            qkv = projected.permute(2, 0, 3, 1, 4)
            taken = race(qkv, {"torch": by_torch, "softmax": by_softmax, "exp": by_exp})
            report(bench="attention", tokens=length, texts=texts, **taken)


def race(qkv: Tensor, ways: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, float]:
    """Milliseconds of each, taken in turn so that a busy machine hits them alike."""
    taken: dict[str, list[float]] = {f"{name}_ms": [] for name in ways}
    for _ in range(_REPEATS):
        for name, work in ways.items():
            started = time.thread_time()
            work(qkv).transpose(1, 2).contiguous()
            taken[f"{name}_ms"].append(1000 * (time.thread_time() - started))
    return {name: min(times) for name, times in taken.items()}


def by_torch(qkv: Tensor) -> Tensor:
    return scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])


def by_softmax(qkv: Tensor) -> Tensor:
    q, k, v = qkv.contiguous().flatten(1, 2)
    return torch.bmm(scores(q, k).softmax(-1), v).view(qkv.shape[1:])


def by_exp(qkv: Tensor) -> Tensor:
    q, k, v = qkv.contiguous().flatten(1, 2)
    weights = scores(q, k - k.mean(1, keepdim=True)).exp_()
    return (torch.bmm(weights, v) / weights.sum(-1, keepdim=True)).view(qkv.shape[1:])


def scores(q: Tensor, k: Tensor) -> Tensor:
    empty = torch.empty(1, dtype=q.dtype)
    return torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=float(q.shape[2]) ** -0.5)


if __name__ == "__main__":
    main()
