"""An entity's partitions as Dagster's."""

from collections.abc import Mapping, Sequence

import dagster as dg

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import DayPartitions


def definition(entity: Entity) -> dg.PartitionsDefinition[str]:
    """The partitions of the entity's vectors; days include today."""
    partitions = entity.partitions
    if isinstance(partitions, DayPartitions):
        start = partitions.start.isoformat()
        return dg.DailyPartitionsDefinition(start, timezone="UTC", end_offset=1)
    return dg.StaticPartitionsDefinition(partitions.keys())


def backfill_policy(partitions_per_run: int | None) -> dg.BackfillPolicy:
    """One run for all partitions of a backfill, or runs of this number of partitions."""
    if partitions_per_run is None:
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(partitions_per_run)


def covered_by_schedule(entity: Entity) -> list[str]:
    """The partitions of a scheduled run: all, or the last days and today."""
    partitions = entity.partitions
    return partitions.recent() if isinstance(partitions, DayPartitions) else partitions.keys()


def tags(keys: Sequence[str]) -> Mapping[str, str]:
    """The tags of a run over these partitions, which follow one another."""
    return {
        "dagster/asset_partition_range_start": keys[0],
        "dagster/asset_partition_range_end": keys[-1],
    }


def keys_of(context: dg.AssetExecutionContext, entity: Entity) -> list[str]:
    """The partitions of a run. Raises dg.Failure where it was started without any: Dagster itself
    would fail between the two assets that have some."""
    if not context.has_partition_key_range:
        keys = entity.partitions.keys()
        raise dg.Failure(
            f"entity {entity.name!r}: the run names no partition: start it with one, like"
            f" `--partition {keys[-1]}`, or with a range of its assets, like `--partition-range"
            f" {keys[0]}...{keys[-1]}`",
            allow_retries=False,
        )
    return list(context.partition_keys)
