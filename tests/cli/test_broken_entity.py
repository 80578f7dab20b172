"""Commands over two entities: a wrong declaration of one does not stop the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from embeddings_pipeline.entities.manifest import manifest_path
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from tests.support.commands import command
from tests.support.notes import Notes, notes

__all__ = ["notes"]

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

EVENT = "model 'stg_event' (models/staging/stg_event.yml)"


def failed(error: type[EmbeddingsError], *arguments: str) -> tuple[Any, str]:
    """The document of a command that fails so, and what it says."""
    result = command(*arguments, "--json")
    assert type(result.exception) is error, result.exception
    return json.loads(result.stdout), str(result.exception)


@contextmanager
def declared(notes: Notes, old: str, new: str) -> Iterator[None]:
    """The entity `event` with something else in its declaration."""
    path = notes.folder / "models" / "staging" / "stg_event.yml"
    manifest = manifest_path(notes.settings)
    good, parsed = path.read_text(), manifest.read_bytes()
    assert old in good
    path.write_text(good.replace(old, new))
    try:
        yield
    finally:
        path.write_text(good)
        # some commands go on with what dbt read last
        manifest.write_bytes(parsed)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "where: shared",
            'where: "pricee > 0"',
            f'{EVENT}, entity \'event\': where: "pricee > 0": column "pricee" does not exist'
            " (columns: event_id, title, shared, written_on)",
        ),
        (
            "where: shared",
            "filters: [colour]",
            f"{EVENT}, entity 'event': filters column 'colour' is not in stg_event",
        ),
        (
            "where: shared",
            "deleted: gone",
            f"{EVENT}, entity 'event': deleted column 'gone' is not in stg_event",
        ),
        (
            "column: written_on",
            "column: day",
            f"{EVENT}, entity 'event': partitions.column column 'day' is not in stg_event",
        ),
        (
            "where: shared",
            "colour: red",
            f"event: {EVENT}: meta.embedding has no key 'colour'",
        ),
    ],
    ids=["where", "filters", "deleted", "partitions", "metadata"],
)
def test_a_wrong_declaration_keeps_no_other_entity_from_anything(
    notes: Notes, old: str, new: str, message: str
) -> None:
    with declared(notes, old, new):
        plan, plan_error = failed(ConfigurationError, "plan")
        dry, dry_error = failed(ConfigurationError, "run", "--all", "--dry-run", "--no-dbt")
        run, run_error = failed(ConfigurationError, "run", "--all", "--no-dbt")
        status, status_error = failed(ConfigurationError, "status")
        index, index_error = failed(ConfigurationError, "index")
        table = command("status").stdout
        named = command("run", "event", "--no-dbt")
    assert [e["entity"] for e in plan["entities"]] == ["note"]
    assert plan["failed"]["event"] in plan_error
    assert dry["entities"] == plan["entities"]
    assert [e["entity"] for e in run["entities"]] == ["note"]
    assert list(run["failed"]) == ["event"]
    event, note = status["entities"]
    assert (note["entity"], note["problem"], note["coverage"]) == ("note", None, 100.0)
    assert (event["entity"], event["problem"] in status_error) == ("event", True)
    (row,) = [line for line in table.splitlines() if " event " in line]
    assert " wrong " in row
    assert [e["entity"] for e in index["indexes"]] == ["note"]
    assert type(named.exception) is ConfigurationError
    for error in (
        plan_error,
        dry_error,
        run_error,
        status_error,
        index_error,
        str(named.exception),
    ):
        assert error.startswith(message)


def test_a_staging_model_that_is_not_there_keeps_no_other_entity_from_running(
    notes: Notes,
) -> None:
    notes.sql("alter view staging.stg_event rename to stg_gone")
    try:
        plan = json.loads(command("plan", "--json").stdout)
        run, run_error = failed(ConfigurationError, "run", "--all", "--no-dbt")
        status, _ = failed(ConfigurationError, "status")
    finally:
        notes.sql("alter view staging.stg_gone rename to stg_event")
    assert [e["entity"] for e in plan["entities"]] == ["note"]
    assert plan["not_built"] == ["event"]
    assert [e["entity"] for e in run["entities"]] == ["note"]
    assert "there is no staging.stg_event in " in status["entities"][0]["problem"]
    assert run_error.startswith(f"{EVENT}, entity 'event': there is no staging.stg_event in ")


def test_an_entity_that_fails_otherwise_makes_it_a_failure(notes: Notes) -> None:
    assert command("run", "note", "--no-dbt").exception is None
    notes.sql("alter view staging.stg_note rename to stg_kept")
    notes.sql("create view staging.stg_note as select * from staging.stg_kept limit 0")
    try:
        with declared(notes, "where: shared", "colour: red"):
            # dbt reads the declaration here
            failed(ConfigurationError, "plan")
            run, message = failed(EmbeddingsError, "run", "--all", "--no-dbt")
    finally:
        notes.sql("drop view staging.stg_note")
        notes.sql("alter view staging.stg_kept rename to stg_note")
    assert (run["entities"], sorted(run["failed"])) == ([], ["event", "note"])
    assert "has no key 'colour'" in message
    assert "entity 'note': 8 of 8 rows are gone" in message


def test_a_wrong_declaration_is_not_built_with_dbt_either(notes: Notes) -> None:
    with declared(notes, "where: shared", "colour: red"):
        run, message = failed(ConfigurationError, "run", "--all")
    assert [e["entity"] for e in run["entities"]] == ["note"]
    assert message.startswith(f"event: {EVENT}: meta.embedding has no key 'colour'")
    assert notes.sql("select count(*) from marts.note_with_embedding") == [(8,)]


def test_status_needs_no_staging_models(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGING_DB_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    result = command("status", "--json")
    assert result.exception is None
    assert [e["problem"] for e in json.loads(result.stdout)["entities"]] == [None, None]
    assert "not checked against the staging models: cannot connect to" in result.stderr
