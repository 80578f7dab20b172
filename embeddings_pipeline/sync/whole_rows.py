"""Which rows of a window a limit has room for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from embeddings_pipeline.store.pending import Pending


def whole_rows(
    window: Sequence[Pending], free: Collection[bytes], room: int, *, begun: bool
) -> tuple[list[Pending], bool]:
    """The chunks of rows for which no more than `room` texts are to be encoded, besides those whose
    hashes are `free`; and whether one had to stay out.

    Smaller rows are not sought beyond the first that is too large. Until something has `begun` to
    be encoded a row is never too large.
    """
    known = set(free)
    chosen: list[Pending] = []
    full = False
    for _, chunks in groupby(window, key=lambda p: p.id):
        row = [*chunks]
        new = {p.text_hash for p in row} - known
        full |= len(new) > room and begun
        if not new or not full:
            chosen += row
            room -= len(new)
            begun |= bool(new)
            known |= new
    return chosen, full
