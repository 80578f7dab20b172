"""Groups texts into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# pieces into which `taper_batches` cuts a batch
_PIECES = 4


def batches_by_length(
    lengths: Sequence[int], *, max_tokens: int, max_texts: int, pads: bool
) -> list[list[int]]:
    """Group the indexes of texts into batches, longest texts first.

    A batch has at most `max_tokens` tokens and `max_texts` texts. For a model that pads, each text
    has as many tokens as the longest of its batch. A text longer than `max_tokens` is a batch by
    itself.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return _batches(order, lengths, max_tokens=max_tokens, max_texts=max_texts, pads=pads)


def batches_in_order(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """Group the indexes of texts into batches in their order, for a model that pads nothing.

    A batch has at most `max_tokens` tokens and `max_texts` texts. A text longer than `max_tokens`
    is a batch by itself.
    """
    order = range(len(lengths))
    return _batches(order, lengths, max_tokens=max_tokens, max_texts=max_texts, pads=False)


def _batches(
    order: Iterable[int], lengths: Sequence[int], *, max_tokens: int, max_texts: int, pads: bool
) -> list[list[int]]:
    batches: list[list[int]] = []
    tokens = longest = 0
    for index in order:
        length = lengths[index]
        if batches:
            texts = len(batches[-1]) + 1
            longer = max(longest, length)
            together = longer * texts if pads else tokens + length
            if texts <= max_texts and together <= max_tokens:
                batches[-1].append(index)
                tokens, longest = together, longer
                continue
        batches.append([index])
        tokens = longest = length
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
