"""The checks of an entity, without Dagster.

Checks only report. `recall` also measures the index again where that is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Literal

from embeddings_pipeline.entities.entity import Freshness
from embeddings_pipeline.store import locks, vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.index import recall as stored
from embeddings_pipeline.store.retry import read_again
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.texts import erasures
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.store.vectors import coverage as stored_coverage
from embeddings_pipeline.store.vectors.coverage import PartitionCoverage, TextCounts


@read_again
def check(database: Postgres, names: TableNames) -> dict[str, CheckResult]:
    """The result of every check of an entity that has texts, by the name of the check."""
    entity = names.source.entity
    with open_tables(database, names) as tables:
        sets = vector_sets.read(tables, ("live", "building"))
        shown = measured(tables, vector_sets.served(sets))
        covered = stored_coverage.coverage(tables, shown)
        reads = shown.max_tokens if shown else None
        counts = stored_coverage.text_counts(tables, reads or 1 << 30)
        orphan_counts = {s.number: stored_coverage.orphans(tables, s) for s in sets}
        norm_counts = {s.number: stored_coverage.odd_norms(tables, s) for s in sets if s.normalized}
        remains = erasures.count_remains(tables)
    return {
        "truncated": truncated(counts, reads),
        "without_text": without_text(counts),
        "coverage": coverage(covered),
        "orphans": orphans(orphan_counts),
        "unit_norm": unit_norm(norm_counts),
        "erased": erased(remains),
        "recall": index_recall(shown, entity.index.recall),
        "data_lag": data_lag(covered, entity.freshness),
    }


def coverage(partitions: Sequence[PartitionCoverage]) -> CheckResult:
    """An error while chunks are pending; a warning for quarantined chunks."""
    rows, covered, pending, quarantined = (
        sum(getattr(p, name) for p in partitions)
        for name in ("rows", "covered", "pending", "quarantined")
    )
    percent = 100 * covered / rows if rows else 100.0
    found = [f"{covered:,} of {rows:,} rows have vectors ({percent:.2f} %)"]
    if pending:
        found.append(f"{pending:,} chunks are pending")
    if quarantined:
        found.append(f"{quarantined:,} are in quarantine: the model failed on them")
    return CheckResult(
        passed=not pending and not quarantined,
        severity="error" if pending else "warn",
        description="; ".join(found),
        metadata={
            "coverage_percent": percent,
            "pending": pending,
            "quarantined": quarantined,
            "partitions": [_without_age(partition) for partition in partitions],
        },
    )


def orphans(by_set: dict[int, int]) -> CheckResult:
    """An error: a search could find a deleted row."""
    count = sum(by_set.values())
    return CheckResult(
        passed=not count,
        description=f"{count:,} vectors have no row; the next run of `vectors` removes them"
        if count
        else "every vector has its row",
        metadata={"orphans": count},
    )


def unit_norm(by_set: dict[int, int]) -> CheckResult:
    """An error: distances to such a vector are wrong."""
    count = sum(by_set.values())
    problem = f"{count:,} vectors of a sample are not of length 1: encode them again with `force`"
    return CheckResult(
        passed=not count,
        description=problem if count else "a sample of the vectors is of length 1",
        metadata={"odd_vectors": count},
    )


def erased(remains: int) -> CheckResult:
    """An error: an erasure must leave nothing."""
    return CheckResult(
        passed=not remains,
        description=f"{remains:,} rows of erased ids, or erased texts in a cache that could not be"
        " reached, are left; the next run of `texts` removes them"
        if remains
        else "nothing is left of what was erased",
        metadata={"remains": remains},
    )


def truncated(counts: TextCounts, max_tokens: int | None) -> CheckResult:
    """A warning: searches cannot find the end of these texts."""
    problem = (
        f"{counts.truncated:,} texts are longer than the {max_tokens} tokens that the model reads:"
        " declare `chunk` to split them"
    )
    return CheckResult(
        passed=not counts.truncated,
        severity="warn",
        description=problem if counts.truncated else "the model reads every text whole",
        metadata={"truncated": counts.truncated},
    )


def without_text(counts: TextCounts) -> CheckResult:
    """A warning: searches cannot find these rows."""
    found = []
    if counts.without_text:
        found.append(f"{counts.without_text:,} rows have no text")
    if counts.failed:
        found.append(f"{counts.failed:,} rows could not be rendered and are in quarantine")
    return CheckResult(
        passed=not found,
        severity="warn",
        description="; ".join(found) or "every row has a text",
        metadata={"without_text": counts.without_text, "failed": counts.failed},
    )


def data_lag(partitions: Sequence[PartitionCoverage], freshness: Freshness) -> CheckResult:
    """A warning, then an error, after the times of the entity's `freshness`.

    The age is that of the oldest pending change, not of the last run: a run that failed, or
    covered another partition, does not reset it.
    """
    ages = [p.oldest_pending_seconds for p in partitions if p.oldest_pending_seconds is not None]
    oldest = timedelta(seconds=max(ages, default=0))
    late = oldest > freshness.warn
    return CheckResult(
        passed=not late,
        severity="error" if oldest > freshness.fail else "warn",
        description=f"the oldest change has waited for {oldest}" if ages else "nothing is waiting",
        metadata={"oldest_pending_seconds": oldest.total_seconds()},
    )


def _without_age(partition: PartitionCoverage) -> dict[str, Any]:
    shown = asdict(partition)
    del shown["oldest_pending_seconds"]
    return shown


def measured(tables: EntityTables, shown: VectorSet | None) -> VectorSet | None:
    """The set, after its index was measured where that is due. Searches use the measured effort."""
    if shown is None or not stored.is_due(tables, shown):
        return shown
    with locks.index(tables, shown.table_name):
        stored.measure(tables, shown)
    return vector_sets.read_one(tables, shown.number)


def index_recall(shown: VectorSet | None, target: float) -> CheckResult:
    """A warning until the index is built, or where recall with a filter is below the target; an
    error where recall without a filter is below the target."""
    if shown is None or shown.recall is None:
        return CheckResult(False, "the index is not built yet", "warn")
    levels = (shown.recall_check or {}).get("levels", [])
    by_filter = {level["column"]: level["recall_at_10"] for level in levels if level["column"]}
    low = {column: recall for column, recall in by_filter.items() if recall < target}
    found = [f"recall@10 is {shown.recall:.3f}"]
    if shown.recall < target:
        found.append(f"below {target}: raise m, ef_construction or lists")
    elif low:
        each = " and ".join(f"{recall:.3f} with filter {name!r}" for name, recall in low.items())
        found.append(f"but {each}, below {target}")
    return CheckResult(
        passed=len(found) == 1,
        severity="error" if shown.recall < target else "warn",
        description=", ".join(found),
        metadata={
            "recall_at_10": shown.recall,
            "target": target,
            "levels": [_shown(level) for level in levels],
        },
    )


def _shown(level: dict[str, Any]) -> dict[str, Any]:
    everything = level["share"] == 1
    by = "no filter" if everything else level["column"] or "a hash of the id"
    return {**level, "share": f"{level['share']:.1%}", "column": by}


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. `metadata` has plain values; a list of mappings is a table."""

    passed: bool
    description: str
    severity: Literal["warn", "error"] = "error"
    metadata: dict[str, Any] = field(default_factory=dict)
