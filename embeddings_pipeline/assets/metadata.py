"""Results of a run as the metadata that Dagster plots and lists."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from embeddings_pipeline.assets import plots
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.store.coverage import PartitionCoverage
from embeddings_pipeline.sync.encode import EncodeResult
from embeddings_pipeline.sync.index import IndexResult
from embeddings_pipeline.sync.publish import PublishResult
from embeddings_pipeline.sync.texts import TextsResult

Metadata = dict[str, Any]

# digits after the point; others are whole. A text may cost a millionth of a dollar
_DIGITS = {"seconds": 3, "encode_seconds": 3, "cost_usd": 6, "saved_usd": 6}


def of_counts(counts: Mapping[str, Any]) -> Metadata:
    """Each count, tokens a second where something was encoded, and the process' peak memory."""
    shown: Metadata = {
        name: round(float(count), _DIGITS[name]) if name in _DIGITS else int(count)
        for name, count in counts.items()
    }
    if counts["encoded"] and counts["encode_seconds"]:
        shown["tokens_per_second"] = round(counts["tokens"] / counts["encode_seconds"], 1)
    return shown | {"peak_memory_mib": peak_memory_mib()}


def of_texts(result: TextsResult) -> Metadata:
    """The counts of a pass over the texts."""
    return of_counts(asdict(result.counts)) | {"new": result.new, "rekeyed": result.rekeyed}


def of_sets(result: EncodeResult) -> Metadata:
    """The counts of all sets together, their models and devices."""
    return of_counts(asdict(result.counts)) | {
        "device": ", ".join(result.devices) or "not used",
        "sets": ", ".join(f"{s.number} ({s.model}, {s.state})" for s in result.sets),
        **({"frozen": result.frozen} if result.frozen else {}),
    }


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
    pipeline: Pipeline, entity: Entity, result: PublishResult, counts: Mapping[str, Any]
) -> Metadata:
    """The published set, the counts of the whole run, and a plot where vectors changed."""
    shown = {"published": result.summary, "flipped": result.flipped}
    return of_counts(counts) | shown | plots.of_changes(pipeline, entity, counts)


def of_partition(partition: PartitionCoverage) -> Metadata:
    """The counts of one partition, with a prefix: names without it count the whole run."""
    names = ("rows", "chunks", "vectors", "pending", "quarantined")
    return {f"partition_{name}": getattr(partition, name) for name in names}


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
