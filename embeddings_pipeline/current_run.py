"""The run in which a thread works, for the lines of its log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class CurrentRun(NamedTuple):
    """An entity, and the id of its run in the ledger where there is one."""

    entity: str
    run_id: str | None


_current: ContextVar[CurrentRun | None] = ContextVar("current_run", default=None)


def current_run() -> CurrentRun | None:
    """The run in which this thread works; None outside of one."""
    return _current.get()


@contextmanager
def in_run(entity: str, run_id: str | None) -> Iterator[None]:
    """A block of work on an entity."""
    before = _current.set(CurrentRun(entity, run_id))
    try:
        yield
    finally:
        _current.reset(before)
