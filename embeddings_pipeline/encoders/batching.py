"""Groups texts into batches."""

from __future__ import annotations

from collections.abc import Sequence

# pieces into which `taper_batches` cuts a batch
_PIECES = 4


def batches_by_length(
    lengths: Sequence[int], *, max_tokens: int, max_texts: int
) -> list[list[int]]:
    """Group the indexes of texts into batches, longest texts first.

    A batch padded to its longest text has at most `max_tokens` tokens and `max_texts` texts. A
    text longer than `max_tokens` is a batch by itself.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches:
            longest, texts = lengths[batches[-1][0]], len(batches[-1])
            if texts < max_texts and longest * (texts + 1) <= max_tokens:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def batches_in_order(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """Group the indexes of texts into batches in their order, for a model that pads nothing.

    A batch has at most `max_tokens` tokens and `max_texts` texts. A text longer than `max_tokens`
    is a batch by itself.
    """
    batches: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if batches and len(batches[-1]) < max_texts and tokens + length <= max_tokens:
            batches[-1].append(index)
            tokens += length
        else:
            batches.append([index])
            tokens = length
    return batches


def taper_batches(batches: Sequence[list[int]], *, workers: int) -> list[list[int]]:
    """Cut the last batch of each worker into pieces, so that workers finish at nearly one time."""
    if len(batches) <= workers:
        return list(batches)
    cut = [
        batch[start : start + size]
        for batch in batches[-workers:]
        for size in [-(-len(batch) // _PIECES)]
        for start in range(0, len(batch), size)
    ]
    return [*batches[:-workers], *cut]
