"""Ways to compute attention on a CPU in bfloat16, by the length of the texts.

One layer of a model with 12 heads of 32 dimensions, one thread, texts of 512 tokens together:
`torch` and `exp` are the two of encoders/local/cpu_kernels.py, `softmax` two products and torch's
softmax. Prints milliseconds, the least of many, one JSON line for each length.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.scratch import report
from embeddings_pipeline.encoders.local.cpu_kernels import (
    Block,
    attention_by_exp,
    attention_by_torch,
    blocks_of,
    milliseconds,
)

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
            projected = torch.randn(texts * length, 3 * _HEADS * _WIDTH, dtype=torch.bfloat16)
            attended = torch.empty(texts * length, _HEADS * _WIDTH, dtype=torch.bfloat16)
            (block,) = blocks_of([length] * texts)
            ways = [attention_by_torch, by_softmax, attention_by_exp]
            taken = milliseconds(ways, projected, attended, block, _HEADS, repeats=_REPEATS)
            names = ("torch_ms", "softmax_ms", "exp_ms")
            figures = dict(zip(names, taken, strict=True))
            report(bench="attention", tokens=length, texts=texts, **figures)


def by_softmax(projected: Tensor, attended: Tensor, block: Block, heads: int) -> None:
    _, ((texts, tokens),) = block
    parts = projected.view(texts, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts.contiguous().flatten(1, 2)
    empty = torch.empty(1, dtype=q.dtype)
    scale = float(q.shape[2]) ** -0.5
    scores = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=scale)
    mixed = torch.bmm(scores.softmax(-1), v).view(texts, heads, tokens, -1)
    attended.view(texts, tokens, heads, -1).copy_(mixed.transpose(1, 2))


if __name__ == "__main__":
    main()
