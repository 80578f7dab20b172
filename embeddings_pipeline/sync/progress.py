"""The progress and counts of a run, and their text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from embeddings_pipeline.store.run_ledger import Counts

# a log shows the progress once in this time
LOG_SECONDS = 5


@dataclass(frozen=True)
class Progress:
    """The progress of a run: `done` of the chunks (or other units) that were pending at its start.
    `counts` is given by runs that encode."""

    entity: str
    done: int
    pending: int
    seconds: float
    counts: Counts | None = None
    unit: str = "chunks"

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the end at this rate; None at a rate of 0."""
        return (self.pending - self.done) / self.rate if self.rate else None


Report: TypeAlias = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """A `Report` that does nothing."""


def throttled(report: Report, seconds: float = LOG_SECONDS) -> Report:
    """A `Report` that passes on at most one progress in this many seconds."""
    last = time.monotonic()

    def pass_on(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            report(progress)

    return pass_on


def of_progress(progress: Progress) -> str:
    """The progress of a run, and its counts so far, as one line."""
    left = progress.eta_seconds
    pace = "" if left is None else f", {progress.rate:,.0f} a second, {left:,.0f} s to go"
    spent = f"; {of_counts(asdict(progress.counts))}" if progress.counts else ""
    return (
        f"{progress.entity}: {progress.done:,} of {progress.pending:,} {progress.unit}{pace}{spent}"
    )


def of_counts(counts: Mapping[str, Any]) -> str:
    """The texts, tokens, seconds and US dollars of a ledger's counts, as one line."""
    seconds = float(counts["encode_seconds"])
    rate = f" ({counts['tokens'] / seconds:,.0f}/s)" if seconds else ""
    return (
        f"{counts['encoded']:,} texts, {counts['tokens']:,} tokens in {seconds:,.1f} s{rate},"
        f" {counts['truncated']:,} truncated, {usd(counts['cost_usd'])},"
        f" {usd(counts['saved_usd'])} saved"
    )


def usd(amount: float) -> str:
    """US dollars with six decimals, enough for the price of a few texts."""
    return f"${float(amount):,.6f}" if amount else "$0"
