"""Work that is done in threads, ahead of who takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Barrier

import pytest

from embeddings_pipeline.encoders.prefetch import capture_row_error, prefetch
from embeddings_pipeline.errors import RowError


def test_results_come_in_order_though_done_in_parallel() -> None:
    together = Barrier(3)

    def work(number: int) -> int:
        # none gets past before three are at it
        together.wait(timeout=30)
        return number * number

    assert [*prefetch(work, range(9), threads=3, depth=3)] == [n * n for n in range(9)]


def test_a_failure_of_a_row_is_a_result_and_any_other_is_raised() -> None:
    def work(number: int) -> int:
        if number == 1:
            raise RowError("one")
        return 6 // (3 - number)

    results = prefetch(capture_row_error(work), range(5), threads=2, depth=2)
    assert next(results) == 2
    assert str(next(results)) == "one"
    assert next(results) == 6
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("depth", [1, 4])
def test_no_more_is_begun_than_may_be_held(depth: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            begun.append(number)
            yield number

    with closing(prefetch(str, items(), threads=2, depth=depth)) as results:
        for taken in range(3):
            assert next(results) == str(taken)
            assert len(begun) == taken + 1 + depth
    assert len(begun) == 3 + depth
