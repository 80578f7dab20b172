"""Puts texts in batches: of like length, so that little of one is padding, or in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import count, islice

import numpy as np
import psycopg

from embeddings_pipeline.encoders.base import EncodedBatch, Encodings, Usage
from embeddings_pipeline.errors import EmbeddingsError, RowError

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


def encoded(places: Sequence[int], encode: Callable[[], Encodings]) -> EncodedBatch:
    """The batch of the texts at these places. What `encode` raises is the batch's error where the
    texts may be at fault; what ends a run is raised."""
    try:
        made = encode()
        if len(made.vectors) != len(places):
            raise RowError(f"the encoder gave {len(made.vectors)} vectors for {len(places)} texts")
        return EncodedBatch(places, made)
    # an encoder may raise anything for a text that it cannot take
    except Exception as error:
        # the database is that which keeps the limits of requests
        ends = isinstance(error, EmbeddingsError | psycopg.OperationalError)
        if ends and not isinstance(error, RowError):
            raise
        return EncodedBatch(places, Encodings(np.empty((0, 0), np.float32), Usage()), error)


def in_batches(
    encode: Callable[[Sequence[str]], Encodings], texts: Iterable[str], size: int
) -> Generator[EncodedBatch, None, None]:
    """The stream of an encoder that has none of its own: so many texts at a time, in order, in the
    thread of the consumer."""
    left = iter(texts)
    for start in count(0, size):
        some = [*islice(left, size)]
        if not some:
            return
        places = range(start, start + len(some))
        batch = encoded(places, lambda some=some: encode(some))  # type: ignore[misc]
        stopped = batch.encodings.stopped
        if stopped:
            # the texts that it left are among the failures
            good = [i for i in range(len(some)) if i not in batch.encodings.failures]
            made = Encodings(batch.encodings.vectors[good], batch.encodings.usage)
            batch = EncodedBatch([places[i] for i in good], made)
        yield batch
        if stopped:
            raise stopped
