"""Puts texts of like length together, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence


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
