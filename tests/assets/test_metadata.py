"""What a run did, as Dagster shows it."""

from __future__ import annotations

from dataclasses import asdict

from embeddings_pipeline.assets.metadata import of_counts
from embeddings_pipeline.store.run_ledger import Counts


def test_fractions_of_a_cent_are_shown_and_counts_are_whole() -> None:
    counts = Counts(
        encoded=3, reused=2, tokens=50, encode_seconds=0.5, cost_usd=0.0000012, saved_usd=0.0421
    )
    shown = of_counts(asdict(counts))
    assert (shown["cost_usd"], shown["saved_usd"]) == (0.000001, 0.0421)
    assert (shown["encoded"], shown["reused"], shown["tokens_per_second"]) == (3, 2, 100.0)
    assert isinstance(shown["encoded"], int)
