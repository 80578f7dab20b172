"""The file of RUN_METRICS_FILE: the figures of the last run of each entity."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Failures, Interrupted
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.run_metrics import Figures, MetricsFile
from embeddings_pipeline.sync.run_options import RunOptions
from tests.support.world import World

FIGURES = Figures(
    rows=2,
    encoded=2,
    reused=1,
    tokens=5,
    cost_usd=0.25,
    pending=3,
    lag_seconds=60,
    quarantined=4,
    stages={"texts": 0.5, "encode": 1.5},
)


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Each value of the file by its name and its labels, as Prometheus reads them."""
    return {
        (sample.name.removeprefix("embeddings_run_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "embeddings.prom"


class OfWorld(Pipeline):
    """A pipeline over the world's database, whose entities the tests declare."""

    known: dict[str, Entity]

    def chosen(self, names: Any = ()) -> tuple[list[Entity], Failures]:
        failures = Failures()
        for name in names:
            if name not in self.known:
                failures[name] = ConfigurationError(f"entity {name!r} is declared wrongly")
        return [self.known[name] for name in names if name in self.known], failures


@pytest.fixture
def pipeline(world: World, path: Path) -> Iterator[OfWorld]:
    world.table("id bigint, name text")
    world.insert((1, "pump"), (2, "garden hose"))
    url = world.database.url
    settings = Settings(
        _env_file=None,
        staging_db_url=url,
        pgvector_url=url,
        embedding_model="fake/words",
        run_metrics_file=path,
    )
    with OfWorld(settings, {"nodes": {}, "sources": {}}) as pipeline:
        pipeline.known = {"item": world.declare(include=["name"])}
        pipeline.encoders.add(world.encoder)
        yield pipeline


def test_a_run_writes_its_figures(pipeline: OfWorld, path: Path) -> None:
    pipeline.run("item")
    found = samples(path)
    assert found["rows", "item"] == found["texts_encoded", "item"] == 2
    assert found["tokens", "item"] > 0
    assert found["pending_chunks", "item"] == found["lag_seconds", "item"] == 0
    assert found["quarantined_rows", "item"] == found["failures_total", "item"] == 0
    stages = {labels[-1] for labels in found if labels[0] == "stage_seconds"}
    assert {"texts", "encode"} <= stages
    assert found["last_success_timestamp_seconds", "item"] > 1_600_000_000


def test_a_failed_run_is_counted_and_the_last_success_is_kept(
    pipeline: OfWorld, world: World, path: Path
) -> None:
    pipeline.run("item")
    before = samples(path)
    world.sql("insert into staging.stg_item values (3, 'tap'), (4, 'tap')")

    def fail(texts: object) -> None:
        raise RuntimeError("out of memory")

    world.encoder.before = fail
    with pytest.raises(EmbeddingsError):
        pipeline.run("item")
    with pytest.raises(EmbeddingsError):
        pipeline.run("item")
    after = samples(path)
    assert after["failures_total", "item"] == 2
    assert after["failed", "item"] == 1
    assert after["pending_chunks", "item"] == 2
    last = "last_success_timestamp_seconds"
    assert after[last, "item"] == before[last, "item"]
    world.encoder.before = lambda texts: None
    pipeline.run("item")
    again = samples(path)
    assert again["failures_total", "item"] == 2
    assert again["failed", "item"] == 0
    assert again[last, "item"] > before[last, "item"]


def test_a_wrong_declaration_is_a_failed_run(pipeline: OfWorld, path: Path) -> None:
    with pytest.raises(ConfigurationError):
        pipeline.run("item", "page")
    found = samples(path)
    assert found["failures_total", "page"] == 1
    assert ("last_success_timestamp_seconds", "page") not in found
    assert found["failures_total", "item"] == 0


def test_stages_of_a_dagster_run_write_the_same(pipeline: OfWorld, path: Path) -> None:
    """The assets call one stage after the other, with Dagster's run id."""
    item = pipeline.known["item"]
    options = RunOptions(run_id="of-dagster")
    pipeline.sync_texts(item, options)
    pipeline.sync_vectors(item, options)
    pipeline.sync_index(item, "of-dagster")
    assert not path.exists()
    pipeline.publish(item, run_id="of-dagster")
    assert samples(path)["texts_encoded", "item"] == 2


def test_an_interrupted_run_is_no_failure(
    pipeline: OfWorld, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = pipeline.run("item", stopped=lambda: True, raise_errors=False)
    assert isinstance(runs.failures["item"], Interrupted)
    assert not path.exists()


def test_an_error_of_the_database_is_a_failure(
    pipeline: OfWorld, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object) -> Any:
        raise psycopg.errors.DiskFull("the disk is full")

    monkeypatch.setattr(pipeline, "names_of", gone)
    with pytest.raises(psycopg.DatabaseError):
        pipeline.sync_texts(pipeline.known["item"], RunOptions(run_id="x"))
    assert samples(path)["failures_total", "item"] == 1


def test_entities_are_kept_apart_in_one_file(path: Path) -> None:
    MetricsFile(path).record("item", FIGURES, failed=False)
    MetricsFile(path).record('no"te\\ \n', None, failed=True)
    MetricsFile(path).record("item", None, failed=True)
    found = samples(path)
    assert found["failures_total", 'no"te\\ \n'] == found["failures_total", "item"] == 1
    assert found["cost_usd", "item"] == 0.25
    assert found["stage_seconds", "item", "encode"] == 1.5
    assert "# TYPE embeddings_run_failures_total counter" in path.read_text()


def test_a_stage_that_the_last_run_did_not_reach_is_gone(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.record("item", FIGURES, failed=False)
    shorter = Figures(**{**vars(FIGURES), "stages": {"texts": 0.1}})
    metrics.record("item", shorter, failed=False)
    found = samples(path)
    assert ("stage_seconds", "item", "encode") not in found
    assert found["stage_seconds", "item", "texts"] == 0.1


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    def write(n: int) -> None:
        for _ in range(5):
            MetricsFile(path).record(f"entity{n % 4}", None, failed=True)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    found = samples(path)
    assert [found["failures_total", f"entity{n}"] for n in range(4)] == [10.0] * 4
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}


def test_a_damaged_file_is_written_again(path: Path) -> None:
    path.write_bytes(b"\xff\xfe embeddings_run_rows{ nonsense\nembeddings_run_rows 1\nother 2\n")
    MetricsFile(path).record("item", FIGURES, failed=False)
    assert samples(path)["rows", "item"] == 2


def test_a_file_that_cannot_be_written_fails_no_run(
    pipeline: OfWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.run_metrics = [MetricsFile(tmp_path / "nowhere" / "x.prom")]
    with caplog.at_level(logging.ERROR):
        pipeline.run("item")
    assert "RUN_METRICS_FILE" in caplog.text


class Broken:
    """An exporter of another package, which raises an error of its own."""

    name = "OTEL_METRICS_EXPORTER"

    def record(self, entity: str, figures: Figures | None, *, failed: bool) -> None:
        raise ZeroDivisionError("of the exporter")


def test_an_exporter_that_raises_any_error_fails_no_run(
    pipeline: OfWorld, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.run_metrics = [Broken()]
    with caplog.at_level(logging.ERROR):
        pipeline.run("item")
    assert "not passed on (OTEL_METRICS_EXPORTER): of the exporter" in caplog.text


def test_a_name_that_the_exporter_would_not_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUN_METRICS_FILE", "figures.txt")
    with pytest.raises(ConfigurationError, match=r"RUN_METRICS_FILE.*\.prom"):
        Settings.load()
