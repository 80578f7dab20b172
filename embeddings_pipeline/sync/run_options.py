"""What a run is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import DayPartitions
from embeddings_pipeline.store.run_ledger import Counts, Kind
from embeddings_pipeline.store.vectors.pending import Scope
from embeddings_pipeline.sync.progress import Report, ignore_progress


@dataclass(frozen=True)
class RunOptions:
    """What a run of an entity is asked for. Without `keys` it takes every partition, without `ids`
    every row; with `include_backlog` it goes on, after its own partitions, with what is pending in
    others.

    `limit` is the most texts to encode and `max_cost_usd` the most to spend, in all its sets.
    `stopped` is asked all the time, `report` told how far it is. What other runs hold is waited
    for `patience` seconds.
    """

    run_id: str
    keys: Sequence[str] | None = None
    include_backlog: bool = False
    ids: Sequence[str] | None = None
    limit: int | None = None
    max_cost_usd: float | None = None
    force: bool = False
    allow_deletes: bool = False
    patience: float = math.inf
    report: Report = ignore_progress
    stopped: Callable[[], bool] = field(default=lambda: False)

    @property
    def partition_keys(self) -> Sequence[str] | None:
        """The partitions that the run may touch; None for all."""
        return None if self.include_backlog else self.keys

    @property
    def kind(self) -> Kind:
        """What the ledger calls it."""
        return "run" if self.ids is None else "documents"

    @property
    def is_unrestricted(self) -> bool:
        """Whether the run brings all of the entity up to date, if no cost limit ends it before."""
        bounds = (self.partition_keys, self.ids, self.limit)
        return all(bound is None for bound in bounds)

    def scope(self, entity: Entity) -> Scope:
        """The chunks of an entity that the run looks at: its own partitions before the backlog,
        recent days before others."""
        first: Sequence[str] = ()
        if self.partition_keys is None:
            partitions = entity.partitions
            recent = partitions.recent() if isinstance(partitions, DayPartitions) else ()
            first = self.keys or recent
        return Scope(self.partition_keys, self.ids, first)

    def less_counts(self, counts: Mapping[str, Any]) -> RunOptions:
        """The same by the counts of a run in the ledger."""
        encoded, dollars = int(counts.get("encoded", 0)), float(counts.get("cost_usd", 0))
        return self.less(Counts(encoded=encoded, cost_usd=dollars))

    def less(self, done: Counts) -> RunOptions:
        """What is left of it, by its limits, once so much is done."""
        limit, dollars = self.limit, self.max_cost_usd
        return replace(
            self,
            limit=None if limit is None else max(0, limit - done.encoded),
            max_cost_usd=None if dollars is None else max(0.0, dollars - done.cost_usd),
        )
