"""Items made in a thread, one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event

import pytest

from embeddings_pipeline.sync.ahead import ahead


def test_items_come_in_their_order() -> None:
    assert list(ahead(iter([1, 0, None, 3]))) == [1, 0, None, 3]
    assert list(ahead(iter([]))) == []


def test_the_next_item_is_made_while_the_one_before_is_used() -> None:
    made = Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    with closing(ahead(items())) as coming:
        assert next(coming) == 1
        assert made.wait(10)


def test_an_error_is_raised_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="no more"):
        next(coming)


def test_nothing_is_made_any_more_once_it_is_closed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    coming = ahead(items())
    next(coming)
    coming.close()
    assert len(taken) <= 2
