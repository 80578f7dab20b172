"""Results of a run as the metadata that Dagster plots and lists."""

import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import dagster as dg

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.store import run_ledger, vector_sets
from embeddings_pipeline.store.retry import read_again
from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.vectors import coverage as stored_coverage
from embeddings_pipeline.store.vectors.coverage import PartitionCoverage
from embeddings_pipeline.sync.encode import EncodeResult
from embeddings_pipeline.sync.index import IndexResult
from embeddings_pipeline.sync.progress import usd
from embeddings_pipeline.sync.publish import PublishResult
from embeddings_pipeline.sync.texts import TextsResult

Metadata = dict[str, Any]

# digits after the point; others are whole. A text may cost a millionth of a dollar
_DIGITS = {"seconds": 3, "encode_seconds": 3, "cost_usd": 6, "saved_usd": 6}


@dataclass(frozen=True)
class OfPartitions:
    """Facts of a partitioned asset. `shared` is the same for each partition of the run,
    `by_partition` has the counts of each partition of the run, and `beyond` the counts of other
    partitions that it changed. The counts of the whole run are on `embeddings`."""

    shared: Metadata
    by_partition: dict[str, Metadata] = field(default_factory=dict)
    beyond: dict[str, Metadata] = field(default_factory=dict)


def of_texts(
    pipeline: Pipeline,
    entity: Entity,
    result: TextsResult,
    run_id: str,
    keys: Sequence[str],
) -> OfPartitions:
    """The rows of each partition, and how many of them have a new text. A run of one partition
    has the counts of the pass."""
    shared = _table_name(pipeline, f"{entity.name}_texts")
    totals = of_counts(asdict(result.counts)) | {"new": result.new, "rekeyed": result.rekeyed}
    with open_tables(pipeline.vectors, pipeline.names_of(entity)) as tables:
        changed = run_ledger.changed_rows_by_partition(tables, run_id)
    coverage = pipeline.coverage(entity)
    return _of_partitions(shared, totals, ["chunks"], {"changed": changed}, coverage, keys)


@read_again
def of_vectors(
    pipeline: Pipeline,
    entity: Entity,
    result: EncodeResult,
    run_id: str,
    keys: Sequence[str],
) -> OfPartitions:
    """The chunks of each partition, and how many texts were encoded for it. A run of one partition
    has the counts of all sets together."""
    tables_of_sets = [s.table_name for s in result.sets]
    shared: Metadata = {
        # the live set is the first
        **(_table_name(pipeline, tables_of_sets[0]) if tables_of_sets else {}),
        "device": ", ".join(result.devices) or "not used",
        "sets": ", ".join(f"{s.number} ({s.model}, {s.state})" for s in result.sets),
        **({"frozen": result.frozen} if result.frozen else {}),
    }
    totals = of_counts(asdict(result.counts))
    with open_tables(pipeline.vectors, pipeline.names_of(entity)) as tables:
        # another run may have dropped one since
        present = [s.table_name for s in vector_sets.read(tables)]
        encoded = run_ledger.encoded_texts_by_partition(
            tables, [name for name in tables_of_sets if name in present], run_id
        )
    coverage = pipeline.coverage(entity)
    states = ["chunks", "vectors", "pending", "quarantined"]
    counts = {"encoded": encoded}
    return _of_partitions(shared, totals, states, counts, coverage, keys, result.keys)


def _of_partitions(
    shared: Metadata,
    totals: Metadata,
    states: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    coverage: Sequence[PartitionCoverage],
    keys: Sequence[str],
    touched: Iterable[str] = (),
) -> OfPartitions:
    """The rows and these states of each partition of the run, and what the run counted for it.
    `totals` are the counts of the run, and those of its partition where it has only one."""
    found = {partition.partition_key: partition for partition in coverage}
    touched = {*touched, *(key for by_partition in counts.values() for key in by_partition)}

    def of_partition(key: str) -> Metadata:
        partition = found.get(key)
        rows = partition.rows if partition else 0
        return {
            "rows": rows,
            "dagster/partition_row_count": rows,
            **{state: getattr(partition, state, 0) for state in states},
            **{name: by_partition.get(key, 0) for name, by_partition in counts.items()},
        }

    of_run = totals if len(keys) == 1 else {}
    return OfPartitions(
        shared,
        {key: of_run | of_partition(key) for key in keys},
        {key: of_partition(key) for key in sorted(touched) if key in found and key not in keys},
    )


def of_counts(counts: Mapping[str, Any]) -> Metadata:
    """Each count, tokens a second where something was encoded, and the process' peak memory."""
    shown: Metadata = {
        name: round(float(count), _DIGITS[name]) if name in _DIGITS else int(count)
        for name, count in counts.items()
    }
    if counts["encoded"] and counts["encode_seconds"]:
        shown["tokens_per_second"] = round(counts["tokens"] / counts["encode_seconds"], 1)
    return shown | {"peak_memory_mib": peak_memory_mib()}


def of_indexes(results: Sequence[IndexResult]) -> Metadata:
    """The index of each set, as a table."""
    rows = [
        {
            "set": r.vector_set.number,
            "action": r.action,
            "why": r.why,
            "vectors": r.rows,
            "recall_at_10": "" if r.vector_set.recall is None else round(r.vector_set.recall, 4),
            "effort": r.vector_set.ef_search or "",
            "size_bytes": r.size_bytes or 0,
            "settings": str(r.vector_set.index_settings or ""),
            "seconds": round(r.seconds, 3),
        }
        for r in results
    ]
    return {
        "indexes": table(rows),
        "seconds": round(sum(r.seconds for r in results), 3),
        "peak_memory_mib": peak_memory_mib(),
    }


def of_publication(
    pipeline: Pipeline, entity: Entity, result: PublishResult, run_id: str
) -> Metadata:
    """The published set, the counts of the whole run, a link to the search page, and a plot where
    vectors changed."""
    # matplotlib and numpy are slow to import
    from embeddings_pipeline.assets import plots

    counts = pipeline.counts_of(entity, run_id) or asdict(Counts())
    rows = sum(partition.covered for partition in pipeline.coverage(entity))
    return {
        **of_counts(counts),
        **_table_name(pipeline, f"{entity.name}_embeddings"),
        "dagster/row_count": rows,
        "published": result.summary,
        "flipped": result.flipped,
        "search_page": dg.MetadataValue.url(
            f"{pipeline.settings.search_page}/?entity={entity.name}"
        ),
        **plots.of_changes(pipeline, entity, counts),
    }


def run_tags(entity: Entity, published: Mapping[str, Any]) -> dict[str, str]:
    """A tag with the counts of a run, for the list of runs."""
    counts = f"{published['encoded']:,} encoded, {published['reused']:,} reused"
    cost = float(published["cost_usd"])
    return {f"embeddings/{entity.name}": counts + (f", {usd(cost)}" if cost else "")}


def of_coverage_view(pipeline: Pipeline) -> Metadata:
    """The rows of the view that counts the rows and vectors of every entity."""
    with pipeline.vectors.connection() as connection:
        rows = stored_coverage.entity_coverage(connection, pipeline.schema)
    return {
        **_table_name(pipeline, "entity_coverage"),
        "dagster/row_count": len(rows),
        "entities": table([_without_nulls(row) for row in rows]),
    }


def _without_nulls(row: Mapping[str, Any]) -> Metadata:
    return {name: "" if value is None else value for name, value in row.items()}


def _table_name(pipeline: Pipeline, name: str) -> Metadata:
    """The full name of a table, which Dagster shows in the side panel."""
    return {"dagster/table_name": f"{pipeline.vectors.database.name}.{pipeline.schema}.{name}"}


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """A table of rows with the same keys."""
    columns = [dg.TableColumn(name) for name in (rows[0] if rows else ["nothing"])]
    return dg.MetadataValue.table([dg.TableRecord(dict(r)) for r in rows], dg.TableSchema(columns))


def plain(values: Mapping[str, Any]) -> Metadata:
    """Metadata in which lists of mappings become tables."""
    return {name: table(v) if isinstance(v, list) else v for name, v in values.items()}


def peak_memory_mib() -> float:
    """The peak memory of this process, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
