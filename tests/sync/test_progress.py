"""The words for how far a run is, the same for every encoder."""

from __future__ import annotations

from dataclasses import asdict

from embeddings_pipeline.store.run_ledger import Counts
from embeddings_pipeline.sync.progress import Progress, of_counts, of_progress

COUNTS = Counts(
    encoded=1_200,
    tokens=30_000,
    encode_seconds=2.5,
    truncated=3,
    cost_usd=0.0006,
    saved_usd=1.5,
)
SAID = "1,200 texts, 30,000 tokens in 2.5 s (12,000/s), 3 truncated, $0.000600, $1.500000 saved"


def test_what_a_run_took_is_said_in_one_line() -> None:
    assert of_counts(asdict(COUNTS)) == SAID
    assert of_counts(asdict(Counts())) == ("0 texts, 0 tokens in 0.0 s, 0 truncated, $0, $0 saved")


def test_progress_is_said_with_what_it_took() -> None:
    progress = Progress("item", 500, 2_000, 10.0, COUNTS)
    assert of_progress(progress) == (f"item: 500 of 2,000 chunks, 50 a second, 30 s to go; {SAID}")


def test_before_the_first_chunk_no_time_to_go_is_told() -> None:
    assert of_progress(Progress("item", 0, 2_000, 4.0)) == "item: 0 of 2,000 chunks"
