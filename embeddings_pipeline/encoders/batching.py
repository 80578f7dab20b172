"""Puts texts in batches: of like length, so that little of one is padding, or in order."""

from __future__ import annotations

from collections.abc import Sequence

_PIECES = 4


def by_tokens(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """The indexes of texts in batches, longest first.

    A batch, padded to its longest text, has at most `max_tokens` tokens and `max_texts` texts;
    a text that is longer alone is a batch of its own.
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


def in_order(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """The indexes of texts in batches, in their order, for a reader that pads nothing.

    A batch has at most `max_tokens` tokens and `max_texts` texts; a text that is longer alone is
    a batch of its own.
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


def tapered(batches: Sequence[list[int]], *, lanes: int) -> list[list[int]]:
    """The batches with the last one of each lane cut in pieces: lanes that end with small ones
    wait less for one another."""
    if len(batches) <= lanes:
        return list(batches)
    cut = [
        batch[start : start + size]
        for batch in batches[-lanes:]
        for size in [-(-len(batch) // _PIECES)]
        for start in range(0, len(batch), size)
    ]
    return [*batches[:-lanes], *cut]
