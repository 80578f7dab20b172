"""A run of the command line leaves in the tables and in Dagster what the entity's job leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from embeddings_pipeline.assets.checks import entity_checks
from embeddings_pipeline.assets.options import ASSETS, DefsOptions
from embeddings_pipeline.assets.reporting import report_build
from embeddings_pipeline.cli.main import app
from embeddings_pipeline.dbt_command import Build
from tests.support.notes import Notes, notes, rows_of

__all__ = ["notes"]

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

SCHEMA = "analytics_features"
COVERAGE = DefsOptions().coverage_key
# these differ from run to run
MEASURED = {"seconds", "encode_seconds", "tokens_per_second", "peak_memory_mib", "plot"}


def materialized(notes: Notes, entity: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The metadata of the latest materialisation of each asset and partition."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for asset in ASSETS:
        records = notes.instance.fetch_materializations(dg.AssetKey([entity, asset]), 100).records
        for record in records:
            event = record.asset_materialization
            assert event is not None
            facts = {
                name: getattr(value, "value", value)
                for name, value in event.metadata.items()
                if name not in MEASURED
            }
            if "indexes" in facts:
                facts["indexes"] = [
                    {k: v for k, v in row.items() if k != "seconds"}
                    for row in rows_of(event.metadata["indexes"])
                ]
            found.setdefault((asset, event.partition), facts)
    return found


def checked(notes: Notes, entity: str) -> dict[str, tuple[Any, ...]]:
    """The latest result of each check of the entity."""
    found = {}
    declared = notes.running.pipeline.entity(entity)
    for spec in entity_checks(declared, DefsOptions()).check_specs:
        (record,) = notes.instance.event_log_storage.get_asset_check_execution_history(
            spec.key, limit=1
        )
        assert record.event is not None
        evaluation = record.event.asset_check_evaluation
        assert evaluation is not None
        found[spec.name] = (evaluation.passed, evaluation.severity, evaluation.description)
    return found


def stored(notes: Notes, entity: str) -> list[tuple[Any, ...]]:
    return notes.sql(
        f"select {entity}_id, text, text_hash, embedding::text"
        f" from {SCHEMA}.{entity}_embeddings order by 1"
    )


def forget(notes: Notes, entity: str) -> None:
    """Drop the tables, and the materialisations."""
    notes.sql(f"drop schema if exists {SCHEMA} cascade")
    keys = [dg.AssetKey([entity, asset]) for asset in ASSETS]
    notes.instance.wipe_assets([*keys, COVERAGE])
    notes.running.pipeline.__dict__.pop("vectors", None)


# notes are in hash partitions; events by day, most days without any
@pytest.mark.parametrize("entity", ["note", "event"])
def test_a_run_without_dagster_leaves_what_the_job_leaves(notes: Notes, entity: str) -> None:
    forget(notes, entity)
    before = len(notes.instance.get_runs())
    by_dagster = CliRunner().invoke(app, ["run", entity, "--no-dbt", "--dagster"])
    assert by_dagster.exception is None
    (newest, *_) = notes.instance.get_runs()
    assert (len(notes.instance.get_runs()), newest.job_name) == (before + 1, f"{entity}_embeddings")
    by_job = (materialized(notes, entity), checked(notes, entity), stored(notes, entity))
    assert notes.instance.get_latest_materialization_event(COVERAGE)
    forget(notes, entity)
    result = CliRunner().invoke(app, ["run", entity, "--no-dbt"])
    assert result.exception is None
    by_run = (materialized(notes, entity), checked(notes, entity), stored(notes, entity))
    assert notes.instance.get_latest_materialization_event(COVERAGE)
    assert by_run[0].keys() == by_job[0].keys()
    for key, facts in by_job[0].items():
        assert by_run[0][key] == facts, key
    assert by_run[1:] == by_job[1:]


def test_what_a_dbt_command_built_is_reported_with_its_tests(tmp_path: Path) -> None:
    model, test = "model.shop.stg_shoe", "test.shop.unique_shoe.1"
    config = {"schema": "staging", "meta": {}, "severity": "warn"}
    node = {"resource_type": "model", "name": "stg_shoe", "config": config}
    manifest = {
        "nodes": {
            model: node,
            "model.shop.stg_hat": node | {"name": "stg_hat"},
            test: {
                "unique_id": test,
                "resource_type": "test",
                "name": "unique_shoe",
                "config": config,
                "depends_on": {"nodes": [model]},
            },
        }
    }
    results = {model: {"status": "success"}, "model.shop.stg_hat": {"status": "error"}}
    build = Build(manifest, {**results, test: {"status": "warn"}}, "")
    key = dg.AssetKey(["staging", "stg_shoe"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        report_build(instance, build)
        assert instance.get_latest_materialization_event(key) is not None
        hat = dg.AssetKey(["staging", "stg_hat"])
        assert instance.get_latest_materialization_event(hat) is None
        (record,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(key, "unique_shoe"), limit=1
        )
    assert record.event is not None
    evaluation = record.event.asset_check_evaluation
    assert evaluation is not None
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
