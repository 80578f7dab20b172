"""The jobs that schedules start, run with the real model on a scratch instance."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from embeddings_pipeline import dbt_command
from embeddings_pipeline.assets.partitions import tags
from tests.support.notes import Notes, notes, planned, rows_of

__all__ = ["notes"]

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

VIEW = "analytics_features.note_embeddings"


@pytest.fixture(scope="module")
def event_run(notes: Notes) -> dg.ExecuteInProcessResult:
    """The first scheduled run of the entity by day."""
    return notes.scheduled("event")


@pytest.fixture(scope="module")
def note_run(notes: Notes, event_run: dg.ExecuteInProcessResult) -> dg.ExecuteInProcessResult:
    """The first scheduled run of the entity by hash."""
    return notes.scheduled("note")


@dataclass(frozen=True)
class Materialised:
    """What a run says of an asset, or of one of its partitions; `metadata` has plain values."""

    partition: str | None
    metadata: dict[str, Any]


def materialised(result: dg.ExecuteInProcessResult, *path: str) -> list[Materialised]:
    return [
        Materialised(
            event.partition,
            {name: value.value for name, value in event.materialization.metadata.items()},
        )
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(path)
    ]


def run_of_texts(
    notes: Notes, entity: str, partition: str, *, include_backlog: bool = False
) -> dict[str, Any]:
    """What a run of one partition of the texts says that it did."""
    result = notes.execute(
        f"{entity}_embeddings",
        [[entity, "texts"]],
        tags=tags([partition]),
        run_config={
            "ops": {
                f"embeddings__{entity}__texts": {"config": {"include_backlog": include_backlog}}
            }
        },
    )
    found = {made.partition: made.metadata for made in materialised(result, entity, "texts")}
    assert include_backlog or [*found] == [partition]
    return found[partition]


def test_a_dbt_step_runs_one_command_which_asks_for_no_later_version(
    notes: Notes, dbt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, command = tmp_path / "calls", tmp_path / "dbt"
    command.write_text(f'#!/bin/sh\necho "$*" >> "{calls}"\nexec "{dbt}" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setattr(dbt_command, "executable", lambda: str(command))
    other = Notes(notes.folder, notes.database, notes.instance)
    with closing(other.running.pipeline):
        # without the seeds, which would undo what other tests changed
        assert other.execute("staging", [["staging", "stg_note"]]).success
    (call,) = calls.read_text().splitlines()
    assert call.startswith("build")


def test_a_scheduled_run_embeds_and_publishes_every_row(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    assert note_run.success
    assert notes.sql(f"select note_id from {VIEW} order by 1") == [(n,) for n in range(1, 9)]


def test_the_tests_of_dbt_are_checks_of_its_models(note_run: dg.ExecuteInProcessResult) -> None:
    found = {c.check_name: c for c in note_run.get_asset_check_evaluations()}
    assert found["unique_stg_note_note_id"].passed
    assert found["unique_stg_note_note_id"].asset_key == dg.AssetKey(["staging", "stg_note"])


def test_a_model_shows_its_columns_and_where_they_come_from(
    note_run: dg.ExecuteInProcessResult,
) -> None:
    (model,) = materialised(note_run, "staging", "stg_note")
    schema = model.metadata["dagster/column_schema"]
    assert {c.name: c.type for c in schema.columns} == {
        "note_id": "integer",
        "title": "text",
        "category": "text",
    }
    lineage = model.metadata["dagster/column_lineage"].deps_by_column
    assert lineage["title"] == [dg.TableColumnDep(dg.AssetKey(["raw", "raw_notes"]), "title")]


def test_every_check_of_an_entity_is_evaluated(note_run: dg.ExecuteInProcessResult) -> None:
    found = {
        (*c.asset_key.path, c.check_name)
        for c in note_run.get_asset_check_evaluations()
        if c.asset_key.path[0] == "note" and c.passed
    }
    assert found == {
        ("note", "texts", "truncated"),
        ("note", "texts", "without_text"),
        ("note", "vectors", "coverage"),
        ("note", "vectors", "orphans"),
        ("note", "vectors", "erased"),
        ("note", "vectors", "unit_norm"),
        ("note", "index", "recall"),
        ("note", "embeddings", "data_lag"),
    }


def test_each_partition_has_its_own_counts_and_the_run_has_their_sums(
    note_run: dg.ExecuteInProcessResult,
) -> None:
    (published,) = materialised(note_run, "note", "embeddings")
    for asset, count in (("texts", "changed"), ("vectors", "encoded")):
        found = {m.partition: m.metadata for m in materialised(note_run, "note", asset)}
        assert found.keys() == {"00", "01", "02", "03"}
        for name in ("rows", "chunks", count):
            assert all(isinstance(m[name], int) for m in found.values())
        assert sum(m["rows"] for m in found.values()) == 8
        # no hash of the eight ids has all rows in one partition
        assert max(m["rows"] for m in found.values()) < 8
    vectors = {m.partition: m.metadata for m in materialised(note_run, "note", "vectors")}
    encoded = sum(m["encoded"] for m in vectors.values())
    assert encoded == published.metadata["encoded"]
    texts = materialised(note_run, "note", "texts")
    assert sum(m.metadata["changed"] for m in texts) == 8


def test_a_materialisation_says_what_the_run_did(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    vectors = materialised(note_run, "note", "vectors")[0].metadata
    assert vectors["device"] == "cpu" or vectors["device"].startswith("cuda")
    (published,) = materialised(note_run, "note", "embeddings")
    counts = published.metadata
    # the other entity has six of the eight texts
    assert (counts["encoded"], counts["reused"]) == (3, 5)
    for name in ("pending", "deleted", "tokens", "tokens_per_second", "seconds", "peak_memory_mib"):
        assert name in counts
    run = notes.instance.get_run_by_id(note_run.run_id)
    assert run is not None
    assert run.tags["embeddings/note"] == "3 encoded, 5 reused"


def test_the_side_panel_has_the_table_its_rows_and_a_link_to_the_search_page(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    (published,) = materialised(note_run, "note", "embeddings")
    name = f"{notes.database.name}.analytics_features.note_embeddings"
    assert published.metadata["dagster/table_name"] == name
    assert published.metadata["dagster/row_count"] == 8
    assert published.metadata["search_page"] == "http://127.0.0.1:8000/?entity=note"


def test_the_view_of_the_coverage_is_shown_as_it_is(note_run: dg.ExecuteInProcessResult) -> None:
    (view,) = materialised(note_run, "entity_coverage")
    found = {row["entity"]: row for row in rows_of(view.metadata["entities"])}
    assert found["note"]["rows"] == found["note"]["rows_with_vectors"] == 8
    assert found["note"]["coverage_percent"] == 100.0


def test_a_plot_and_texts_are_shown_where_vectors_changed(
    note_run: dg.ExecuteInProcessResult,
) -> None:
    (published,) = materialised(note_run, "note", "embeddings")
    assert published.metadata["plot"].startswith("![vectors](data:image/png;base64,iVBOR")
    assert "title: " in published.metadata["texts"]


def test_rows_that_may_not_all_be_shown_are_never_shown(
    event_run: dg.ExecuteInProcessResult,
) -> None:
    (published,) = materialised(event_run, "event", "embeddings")
    assert published.metadata["encoded"] == 5
    assert not {"plot", "texts"} & set(published.metadata)


def test_a_scheduled_run_by_day_drains_other_days_up_to_the_limit(
    event_run: dg.ExecuteInProcessResult,
) -> None:
    days = {m.partition for m in materialised(event_run, "event", "vectors")}
    # six rows may be embedded, on these days and none of the last ones; the limit is five
    assert days > {"2026-01-02", "2026-01-03", "2026-01-05"}
    (coverage,) = [
        c
        for c in event_run.get_asset_check_evaluations()
        if c.check_name == "coverage" and c.asset_key.path[0] == "event"
    ]
    assert not coverage.passed
    assert coverage.severity == dg.AssetCheckSeverity.ERROR
    (published,) = materialised(event_run, "event", "embeddings")
    assert "1 chunks are pending" in published.metadata["published"]


def test_a_second_run_encodes_nothing_and_shows_no_plot(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    # other tests leave changed rows
    notes.scheduled("note")
    again = notes.scheduled("note")
    (published,) = materialised(again, "note", "embeddings")
    assert (published.metadata["encoded"], published.metadata["reused"]) == (0, 0)
    assert "plot" not in published.metadata


def test_marts_are_built_from_what_was_published(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    assert notes.execute("marts").success
    assert notes.sql("select count(*) from marts.note_with_embedding") == [(8,)]


def test_a_run_of_some_partitions_leaves_the_others(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    notes.sql("update raw.raw_notes set title = title || ' today'")
    notes.execute("note_embeddings", [["note", "texts"]], tags=tags(["00", "03"]))
    half = notes.execute("note_embeddings", [["note", "vectors"]], tags=tags(["00", "01"]))
    found = materialised(half, "note", "vectors")
    assert sorted(m.partition or "" for m in found) == ["00", "01"]
    assert all(m.metadata["pending"] == 0 for m in found)
    (coverage,) = [c for c in half.get_asset_check_evaluations() if c.check_name == "coverage"]
    assert not coverage.passed
    rest = notes.scheduled("note")
    assert materialised(rest, "note", "embeddings")[0].metadata["encoded"] > 0
    assert notes.sql(f"select count(*) from {VIEW} where text like '%% today'") == [(8,)]


def test_texts_of_one_partition_are_written_without_the_others(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    # by their hashes 101 is in partition 00, 103 in 02, the others in 03
    stored = "select note_id from analytics_features.note_texts where note_id > 100 order by 1"
    notes.sql(
        "insert into raw.raw_notes (note_id, title) select n, 'Note ' || n"
        " from generate_series(101, 104) as n"
    )
    assert run_of_texts(notes, "note", "03")["new"] == 2
    assert notes.sql(stored) == [(102,), (104,)]
    assert run_of_texts(notes, "note", "03", include_backlog=True)["new"] == 2
    assert notes.sql(stored) == [(101,), (102,), (103,), (104,)]
    notes.sql("delete from raw.raw_notes where note_id > 100")
    assert run_of_texts(notes, "note", "03")["deleted"] == 2
    assert notes.sql(stored) == [(101,), (103,)]
    assert run_of_texts(notes, "note", "03", include_backlog=True)["deleted"] == 2
    assert notes.sql(stored) == []


def test_texts_of_one_day_are_written_without_the_others(
    notes: Notes, event_run: dg.ExecuteInProcessResult
) -> None:
    days = (
        "select distinct partition_key from analytics_features.event_texts"
        " where text like '%% in time' order by 1"
    )
    notes.sql("update raw.raw_notes set title = title || ' in time'")
    assert run_of_texts(notes, "event", "2026-01-03")["read"] == 2
    assert notes.sql(days) == [("2026-01-03",)]
    assert run_of_texts(notes, "event", "2026-01-03", include_backlog=True)["read"] == 4
    assert len(notes.sql(days)) == 4
    notes.sql("update raw.raw_notes set title = replace(title, ' in time', '')")


def test_a_failing_test_of_the_model_keeps_its_rows_from_being_read(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    notes.sql("update raw.raw_notes set category = 'attic', title = 'Lost' where note_id = 1")
    stopped = notes.execute("note_embeddings", tags=tags(["00", "03"]), raise_on_error=False)
    assert not stopped.success
    assert materialised(stopped, "staging", "stg_note")
    assert not materialised(stopped, "note", "texts")
    notes.sql("update raw.raw_notes set category = 'garden' where note_id = 1")
    assert notes.scheduled("note").success
    assert notes.sql(f"select text from {VIEW} where note_id = 1") == [("title: Lost",)]


def test_a_run_without_a_partition_ends_before_the_texts_and_says_how_to_start_it(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    stopped = notes.execute("note_embeddings", [["note", "texts"]], raise_on_error=False)
    assert not materialised(stopped, "note", "texts")
    (failed,) = stopped.get_failed_step_keys()
    assert failed == "embeddings__note__texts"
    reason = stopped.failure_data_for_node(failed)
    assert "--partition-range 00...03" in str(reason)


def test_a_model_that_cannot_be_built_fails_with_the_words_of_dbt(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    model = notes.folder / "models" / "staging" / "stg_note.sql"
    good = model.read_text()
    model.write_text(good.replace("title,", "titel,"))
    try:
        with pytest.raises(dg.Failure) as failure:
            notes.execute("staging", [["staging", "stg_note"]])
    finally:
        model.write_text(good)
    assert 'column "titel" does not exist' in str(failure.value.description)


def test_the_plan_is_shown_without_materialising_anything(
    notes: Notes, note_run: dg.ExecuteInProcessResult
) -> None:
    ((relation,),) = notes.sql("select 'staging.stg_note'::regclass::text")
    notes.sql(f"update {relation} set title = 'Sell the house' where note_id = 5")
    result = notes.execute("embeddings_plan")
    assert result.get_asset_materialization_events() == []
    note = planned(result)["note"]
    assert (note["changed"], note["encode"], note["why"]) == (1, 1, "100% content")
