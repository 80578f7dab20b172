"""The options of a run."""

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
    """The options of a run of an entity. Without `keys` it covers every partition, without `ids`
    every row. `include_backlog` adds what is pending in other partitions, after its own partitions.

    `limit` is the most texts to encode, `max_cost_usd` the most to spend, over all sets. The run
    polls `stopped`, calls `report` with its progress, and waits up to `patience` seconds for locks
    and claims of other runs.
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
        """The kind of the run in the ledger."""
        return "run" if self.ids is None else "documents"

    @property
    def is_unrestricted(self) -> bool:
        """Whether the run covers the whole entity, apart from a cost limit."""
        bounds = (self.partition_keys, self.ids, self.limit)
        return all(bound is None for bound in bounds)

    def scope(self, entity: Entity) -> Scope:
        """The chunks of an entity that the run covers: its own partitions before the backlog,
        recent days before others."""
        first: Sequence[str] = ()
        if self.partition_keys is None:
            partitions = entity.partitions
            recent = partitions.recent() if isinstance(partitions, DayPartitions) else ()
            first = self.keys or recent
        return Scope(self.partition_keys, self.ids, first)

    def less_counts(self, counts: Mapping[str, Any]) -> RunOptions:
        """`less` by the counts of a run in the ledger."""
        encoded, dollars = int(counts.get("encoded", 0)), float(counts.get("cost_usd", 0))
        return self.less(Counts(encoded=encoded, cost_usd=dollars))

    def less(self, done: Counts) -> RunOptions:
        """The options with the limits that remain after this work."""
        limit, dollars = self.limit, self.max_cost_usd
        return replace(
            self,
            limit=None if limit is None else max(0, limit - done.encoded),
            max_cost_usd=None if dollars is None else max(0.0, dollars - done.cost_usd),
        )
