"""Joins the encodings of slices of texts, and shares out those of texts that went together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embeddings_pipeline.encoders.base import Encodings, Usage
from embeddings_pipeline.entities.chunking import count_tokens


def joined(parts: Sequence[Encodings], count: int, size: int) -> Encodings:
    """The encodings of so many texts from those of slices, each of which but the last has `size`;
    those after one that was stopped are not there."""
    read = np.concatenate([part.vectors for part in parts])
    vectors = np.zeros((count, read.shape[1]), np.float32)
    vectors[: len(read)] = read
    stopped = parts[-1].stopped
    failures = {
        number * size + index: why
        for number, part in enumerate(parts)
        for index, why in part.failures.items()
    }
    return Encodings(
        vectors,
        sum((part.usage for part in parts), Usage()),
        failures | {index: str(stopped) for index in range(len(read), count)},
        stopped,
    )


def shared_out(encodings: Encodings, groups: Sequence[Sequence[str]]) -> Iterator[Encodings]:
    """The encodings of each group of texts, and its share, by length, of what all of them took."""
    if len(groups) == 1:
        yield encodings
        return
    usage = encodings.usage
    lengths = [sum(count_tokens(texts)) for texts in groups]
    start = 0
    for texts, length in zip(groups, lengths, strict=True):
        end = start + len(texts)
        share = length / max(1, sum(lengths))
        yield Encodings(
            encodings.vectors[start:end],
            Usage(
                texts=len(texts), tokens=round(usage.tokens * share), seconds=usage.seconds * share
            ),
            {i - start: why for i, why in encodings.failures.items() if start <= i < end},
        )
        start = end
