"""`run`, `status`, `publish` and `rollback`, with the real model on the project of notes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError, Interrupted
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.sync.encode import EncodeResult
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import TextsResult
from tests.support.commands import command, document
from tests.support.notes import Notes, notes

__all__ = ["notes"]

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

VIEW = "analytics_features.note_embeddings"


@pytest.fixture(scope="module")
def first_run(notes: Notes) -> Result:
    return command("run", "--all")


@pytest.fixture
def embedded_notes(notes: Notes, first_run: Result) -> Notes:
    """Notes that all have vectors."""
    return notes


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    good = path.read_text()
    assert old in good
    path.write_text(good.replace(old, new))
    try:
        yield
    finally:
        path.write_text(good)


def test_run_all_embeds_every_entity_and_shows_a_table(first_run: Result) -> None:
    assert first_run.exit_code == 0, first_run.exception
    assert "tokens/s" in first_run.stdout
    for entity, rows in (("event", 6), ("note", 8)):
        (line,) = [line for line in first_run.stdout.splitlines() if f" {entity} " in line]
        cells = [cell.strip() for cell in line.split("│")]
        assert cells[2:4] == [str(rows), str(rows)]
        assert cells[6] == "100 %"


def test_a_run_over_unchanged_entities_encodes_nothing_and_builds_the_marts(
    embedded_notes: Notes,
) -> None:
    document("run", "--all", "--no-dbt")
    embedded_notes.sql("drop view if exists marts.note_with_embedding")
    found = document("run", "--all")["entities"]
    assert embedded_notes.sql("select count(*) from marts.note_with_embedding") == [(8,)]
    assert [(e["entity"], e["read"], e["encoded"]) for e in found] == [
        ("event", 0, 0),
        ("note", 0, 0),
    ]


def test_a_run_of_one_entity_prints_the_counts_of_its_ledger_row(embedded_notes: Notes) -> None:
    embedded_notes.sql("update raw.raw_notes set title = 'Mend the gate' where note_id = 3")
    counts = document("run", "note")
    assert (counts["entity"], counts["read"], counts["encoded"]) == ("note", 1, 1)
    assert {"pending", "reused", "deleted", "quarantined", "tokens", "seconds"} < counts.keys()
    # the seed's table was there: the edit was not undone
    assert embedded_notes.sql(f"select text from {VIEW} where note_id = 3") == [
        ("title: Mend the gate",)
    ]


def test_a_run_of_some_partitions_leaves_the_others_as_they_are(embedded_notes: Notes) -> None:
    embedded_notes.sql("update raw.raw_notes set title = title || ' soon'")
    shown = f"select note_id from {VIEW} where text like '%% soon'"
    first = document("run", "note", "--partitions", "00..01")
    done = embedded_notes.sql(shown)
    (state,) = [e for e in document("status")["entities"] if e["entity"] == "note"]
    rest = document("run", "note", "--no-dbt")
    assert first["read"] == first["encoded"] == len(done) > 0
    assert {HashPartitions(count=4).key_of(str(n)) for (n,) in done} <= {"00", "01"}
    # the others were not looked at
    assert state["pending"] == 0
    assert rest["read"] == rest["encoded"] == 8 - first["encoded"] > 0
    assert len(embedded_notes.sql(shown)) == 8


def test_a_dry_run_says_what_that_run_would_do(embedded_notes: Notes) -> None:
    def planned(*options: str) -> int:
        (entity,) = document("run", "note", "--dry-run", *options)["entities"]
        (only,) = entity["sets"]
        return int(only["encode"])

    document("run", "note", "--no-dbt")
    embedded_notes.sql("update raw.raw_notes set title = title || ' twice'")
    assert (planned(), planned("--no-dbt", "--limit", "3")) == (8, 3)
    of_some = planned("--no-dbt", "--partitions", "00..01")
    assert 0 < of_some < 8
    assert document("run", "note", "--no-dbt", "--partitions", "00..01")["encoded"] == of_some
    assert (planned("--no-dbt"), planned("--no-dbt", "--force")) == (8 - of_some, 8)
    document("run", "note", "--no-dbt")


def test_what_staging_reads_is_built_where_it_is_missing(embedded_notes: Notes) -> None:
    embedded_notes.sql("drop table raw.raw_notes cascade")
    counts = document("run", "note")
    assert counts["deleted"] == 0
    assert embedded_notes.sql(f"select text from {VIEW} where note_id = 3") == [
        ("title: Buy flour and yeast",)
    ]
    document("run", "event")


def test_an_entity_whose_model_fails_does_not_keep_others_from_running(
    embedded_notes: Notes,
) -> None:
    model = embedded_notes.folder / "models" / "staging" / "stg_event.sql"
    with edited(model, "title,", "titel,"):
        result = command("run", "--all", "--json")
    assert [e["entity"] for e in json.loads(result.stdout)["entities"]] == ["note"]
    assert isinstance(result.exception, EmbeddingsError)
    assert not isinstance(result.exception, ConfigurationError)
    message = str(result.exception)
    assert message.startswith("event: dbt: stg_event: Database Error")
    assert 'column "titel" does not exist' in message
    document("run", "event")


def test_an_interrupted_run_tells_what_it_did_and_begins_nothing_else(
    embedded_notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_notes.sql("update raw.raw_notes set title = title || ' again'")
    sync_vectors = Pipeline.sync_vectors

    def interrupted(pipeline: Pipeline, entity: Entity, options: RunOptions) -> EncodeResult:
        sync_vectors(pipeline, entity, replace(options, limit=2))
        raise Interrupted(f"{entity.name}: stopped after 2 of 6 chunks; run again to go on")

    monkeypatch.setattr(Pipeline, "sync_vectors", interrupted)
    result = command("run", "--all", "--json")
    monkeypatch.undo()
    assert isinstance(result.exception, EmbeddingsError)
    assert str(result.exception) == "event: stopped after 2 of 6 chunks; run again to go on"
    done = json.loads(result.stdout)["entities"]
    assert [(e["entity"], e["encoded"]) for e in done] == [("event", 2), ("note", 0)]
    left = document("run", "--all")["entities"]
    assert [e["encoded"] + e["reused"] for e in left] == [4, 8]


def test_a_run_that_is_interrupted_before_it_did_anything_says_so_and_no_more(
    embedded_notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> TextsResult:
        raise Interrupted("note: interrupted; run again to go on")

    monkeypatch.setattr(Pipeline, "sync_texts", interrupted)
    result = command("run", "note", "--no-dbt")
    assert str(result.exception) == "note: interrupted; run again to go on"
    assert result.stdout == ""


def test_a_failing_test_of_a_model_is_named(embedded_notes: Notes) -> None:
    embedded_notes.sql("update raw.raw_notes set category = 'attic' where note_id = 2")
    result = command("run", "note")
    embedded_notes.sql("update raw.raw_notes set category = 'garden' where note_id = 2")
    assert isinstance(result.exception, EmbeddingsError)
    assert "note: dbt test accepted_values_stg_note_category" in str(result.exception)


def test_mass_deletes_are_refused_until_they_are_meant(embedded_notes: Notes) -> None:
    embedded_notes.sql("create table kept as select * from raw.raw_notes")
    embedded_notes.sql("delete from raw.raw_notes where note_id > 1")
    refused = command("run", "note", "--no-dbt")
    assert isinstance(refused.exception, EmbeddingsError)
    assert "--allow-deletes" in str(refused.exception)
    assert embedded_notes.sql(f"select count(*) from {VIEW}") == [(8,)]
    counts = document("run", "note", "--no-dbt", "--allow-deletes")
    assert counts["deleted"] == 7
    assert embedded_notes.sql(f"select count(*) from {VIEW}") == [(1,)]
    embedded_notes.sql("insert into raw.raw_notes select * from kept where note_id > 1")
    document("run", "note", "--no-dbt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"name entities \(event, note\) or give --all"),
        (["note", "--all"], r"name entities \(event, note\) or give --all"),
        (["nonsuch", "--no-dbt"], r"no entity 'nonsuch' \(entities: event, note\)"),
        (["note", "--partitions", "00..09", "--no-dbt"], r"partition '09' does not exist"),
        (["note", "--partitions", "00,01"], r"--partitions takes one key or FIRST..LAST"),
        (
            ["note", "event", "--partitions", "00", "--no-dbt"],
            r"event: partition '00' does not exist",
        ),
        (["--dry-run", "--no-dbt"], r"name entities \(event, note\) or give --all"),
    ],
)
def test_a_wrong_call_is_told_with_the_choices(
    notes: Notes, arguments: list[str], message: str
) -> None:
    result = command("run", *arguments)
    assert isinstance(result.exception, ConfigurationError)
    assert result.exception is not None
    with pytest.raises(ConfigurationError, match=message):
        raise result.exception


def test_nothing_is_encoded_where_embedding_is_off(
    embedded_notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_ENABLED", "false")
    result = command("run", "note", "--no-dbt")
    assert isinstance(result.exception, ConfigurationError)
    assert "EMBEDDING_ENABLED is false" in str(result.exception)


def test_status_tells_how_far_each_entity_is(embedded_notes: Notes) -> None:
    entities = document("status")["entities"]
    assert [e["entity"] for e in entities] == ["event", "note"]
    model = "sentence-transformers/all-MiniLM-L6-v2"
    assert entities[1] == {
        "entity": "note",
        "rows": 8,
        "chunks": 8,
        "vectors": 8,
        "coverage": 100.0,
        "pending": 0,
        "oldest_pending_seconds": None,
        "live_set": {"number": 1, "model": model, "dimension": 384},
        "index": {"type": "hnsw", "recall_at_10": 1.0},
        "cost": {"last_run_usd": 0.0, "total_usd": 0.0, "saved_usd": 0.0},
        "waiting": [],
        "problem": None,
    }
    assert document("status")["cache"]["redis"] == "not configured"
    table = command("status").stdout
    assert "US dollars" not in table
    assert "all-MiniLM-L6-v2" in table
    assert "recall@10" in table


def test_status_tells_what_was_spent_where_something_was(embedded_notes: Notes) -> None:
    spent = "update analytics_features.run_ledger set cost_usd = {} where entity = 'note'"
    embedded_notes.sql(spent.format(0.25))
    table = command("status").stdout
    embedded_notes.sql(spent.format(0))
    (line,) = [line for line in table.split("US dollars")[1].splitlines() if " note " in line]
    assert "$0.25" in line


def test_models_lists_the_known_ones_and_whether_they_are_at_hand(notes: Notes) -> None:
    found = {model["model"]: model for model in document("models")["models"]}
    assert found["sentence-transformers/all-MiniLM-L6-v2"]["at_hand"]
    assert found["text-embedding-3-small"]["dimension"] == 1536
    assert "text-embedding-ada-002" in command("models").stdout


def test_publish_says_what_is_live_and_rollback_that_nothing_else_is_kept(
    embedded_notes: Notes,
) -> None:
    assert "set 1" in command("publish", "note").stdout
    result = command("rollback", "note")
    assert isinstance(result.exception, ConfigurationError)
    assert "no earlier set" in str(result.exception)
