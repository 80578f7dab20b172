"""The figures of a run that Dagster executes."""

from __future__ import annotations

from pathlib import Path

import pytest

from embeddings_pipeline.sync.run_metrics import MetricsFile
from tests.support.notes import Notes, notes

__all__ = ["notes"]

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]


def test_a_job_of_dagster_writes_the_figures_of_its_run(notes: Notes, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.prom"
    notes.running.pipeline.run_metrics = [MetricsFile(path)]
    notes.build()
    assert notes.scheduled("note").success
    lines = path.read_text().splitlines()
    assert 'embeddings_run_failures_total{entity="note"} 0' in lines
    (encoded,) = [line for line in lines if line.startswith("embeddings_run_texts_encoded{")]
    assert int(encoded.split()[-1]) > 0
    assert any(line.startswith('embeddings_run_stage_seconds{entity="note",') for line in lines)
