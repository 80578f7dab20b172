"""Dagster's jobs where the staging model of one entity is not as it is declared."""

from __future__ import annotations

import dagster as dg
import pytest

from tests.support.notes import Notes, notes, planned

__all__ = ["notes"]

# dbt and Dagster warn of themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

MESSAGE = (
    "model 'stg_event' (models/staging/stg_event.yml), entity 'event': where: \"shared\":"
    ' column "shared" does not exist (columns: event_id, title, written_on)'
)


@pytest.fixture
def broken(notes: Notes) -> Notes:
    """The project whose `event` lacks the column of its `where`."""
    notes.sql("drop view staging.stg_event")
    notes.sql(
        "create view staging.stg_event as"
        " select note_id as event_id, title, written_on from raw.raw_notes"
    )
    return notes


def of_failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    return str([event.event_specific_data for event in result.get_step_failure_events()])


def test_the_job_of_the_entity_says_what_is_wrong_and_another_goes_its_way(broken: Notes) -> None:
    failed = broken.execute(
        "event_embeddings",
        [["event", "texts"]],
        raise_on_error=False,
        tags={
            "dagster/asset_partition_range_start": "2026-01-02",
            "dagster/asset_partition_range_end": "2026-01-02",
        },
    )
    assert MESSAGE in of_failure(failed).replace("\\'", "'")
    assert broken.scheduled("note").success


def test_the_others_are_planned_before_the_job_says_what_is_wrong(broken: Notes) -> None:
    failed = broken.execute("embeddings_plan", raise_on_error=False)
    assert [*planned(failed)] == ["note"]
    assert MESSAGE in of_failure(failed).replace("\\'", "'")
