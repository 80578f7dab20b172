"""How far a run is and what it took, in the same words for every encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from embeddings_pipeline.sync.request import Progress


def of_progress(progress: Progress) -> str:
    """How far a run is, and what it took so far."""
    return (
        f"{progress.entity}: {progress.done:,} of {progress.pending:,} chunks,"
        f" {progress.rate:,.0f} a second, {progress.eta_seconds or 0:,.0f} s to go;"
        f" {of_counts(asdict(progress.counts))}"
    )


def of_counts(counts: Mapping[str, Any]) -> str:
    """Texts, tokens, seconds, cache hits and US dollars, of a ledger's counts."""
    seconds = float(counts["encode_seconds"])
    rate = f" ({counts['tokens'] / seconds:,.0f}/s)" if seconds else ""
    return (
        f"{counts['encoded']:,} texts, {counts['tokens']:,} tokens in {seconds:,.1f} s{rate},"
        f" {counts['truncated']:,} truncated, {counts['cached']:,} from the cache,"
        f" {usd(counts['cost_usd'])}, {usd(counts['saved_usd'])} saved"
    )


def usd(amount: float) -> str:
    """US dollars, down to the price of a few texts."""
    return f"${float(amount):,.6f}" if amount else "$0"
