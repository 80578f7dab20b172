"""How the definitions of all entities are named, grouped and run in a code location."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import placement
from embeddings_pipeline.entities.entity import Entity

ASSETS = ("texts", "vectors", "index", "embeddings")
# runs that encode share the machine's processor or accelerator: an instance may limit this pool
POOL = "encoder"
EXECUTORS: Mapping[str, dg.ExecutorDefinition | None] = {
    "in_process": dg.in_process_executor,
    "multiprocess": dg.multiprocess_executor,
    "default": None,
}


@dataclass(frozen=True)
class DefsOptions:
    """What a team may set for all entities of a code location.

    `name` is the key of the resource, and begins the names of ops; jobs and schedules contain it.
    `key_prefix` stands before each asset key, and `group` replaces the entity's name as the group.
    `partitions_per_run` splits a backfill into runs of that size; by default it is one run.
    `pool` is the concurrency pool of the runs that encode, `executor` executes the jobs, and
    `op_tags` are tags of each op. Schedules and sensors begin with `status`.
    `settings` has the settings that are known before a run.
    """

    name: str = "embeddings"
    key_prefix: tuple[str, ...] = ()
    group: str | None = None
    partitions_per_run: int | None = None
    pool: str | None = POOL
    executor: dg.ExecutorDefinition | None = dg.in_process_executor
    op_tags: Mapping[str, Any] = field(default_factory=dict)
    status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED
    settings: Mapping[str, Any] = field(default_factory=dict)

    def key(self, entity: str, asset: str) -> dg.AssetKey:
        """The key of one of an entity's assets."""
        return dg.AssetKey([*self.key_prefix, entity, asset])

    def keys(self, entity: str) -> list[dg.AssetKey]:
        """The keys of an entity's assets, in the order of a run."""
        return [self.key(entity, asset) for asset in ASSETS]

    @property
    def coverage_key(self) -> dg.AssetKey:
        """The key of the view that counts the rows and vectors of every entity."""
        return dg.AssetKey([*self.key_prefix, "entity_coverage"])

    def op(self, entity: str, step: str) -> str:
        """The name of the op of an asset, or of the checks."""
        return f"{self.name}__{entity}__{step}"

    def job(self, entity: str) -> str:
        """The name of an entity's job."""
        return f"{entity}_{self.name}"

    def pool_of(self, entity: Entity) -> str | None:
        """The concurrency pool of the step that encodes."""
        return entity.run.pool or self.pool

    def executor_of(self, entity: Entity) -> dg.ExecutorDefinition | None:
        """The executor of an entity's job; None means the code location's."""
        return EXECUTORS[entity.run.executor] if entity.run.executor else self.executor

    def op_tags_of(self, entity: Entity) -> dict[str, Any]:
        """The tags of an entity's ops."""
        return {**self.op_tags, **placement.op_tags(entity.run)}
