"""What a run of vectors is asked for, and how it tells how far it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from embeddings_pipeline.store.ledger import Counts


@dataclass(frozen=True)
class Progress:
    """How far a run is, in chunks (or other units) of all that was pending at its start; `counts`
    is what it did, where it is a run of vectors."""

    entity: str
    done: int
    pending: int
    seconds: float
    counts: Counts | None = None
    unit: str = "chunks"

    @property
    def rate(self) -> float:
        """Chunks a second so far."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the end at this rate; None before there is one."""
        return (self.pending - self.done) / self.rate if self.rate else None


Report: TypeAlias = Callable[[Progress], None]


def unheard(progress: Progress) -> None:
    """Where nobody wants to know."""


@dataclass(frozen=True)
class Request:
    """What a run was asked for. Without `keys` it takes every partition, without `ids` every row.
    It leaves out the partitions `besides`.

    `limit` is the most texts to encode, of a run that has `begun` with some already or not;
    `max_cost_usd` is the most to spend; `report` is called after each window and `stopped` before
    each. Other runs are waited for `patience` seconds.
    """

    run_id: str
    keys: Sequence[str] | None = None
    besides: Sequence[str] = ()
    ids: Sequence[str] | None = None
    limit: int | None = None
    begun: bool = False
    force: bool = False
    max_cost_usd: float | None = None
    patience: float = math.inf
    report: Report = unheard
    stopped: Callable[[], bool] = field(default=lambda: False)

    def less(self, done: Counts) -> Request:
        """What is left of it, by its limits, once so much is done."""
        limit, purse = self.limit, self.max_cost_usd
        return replace(
            self,
            limit=None if limit is None else max(0, limit - done.encoded),
            begun=self.begun or done.encoded > 0,
            max_cost_usd=None if purse is None else max(0.0, purse - done.cost_usd),
        )
