"""Schedules and durations of an entity."""

from __future__ import annotations

from datetime import timedelta

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.entities.cron import normal_cron
from tests.entities.declared import declared, refusal


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("45m", timedelta(minutes=45)),
        ("26h", timedelta(hours=26)),
        ("1 d", timedelta(days=1)),
    ],
)
def test_a_duration_has_a_unit(said: str, meant: timedelta) -> None:
    assert declared(freshness={"warn": said, "fail": "9d"}).freshness.warn == meant


@pytest.mark.parametrize(
    "said", ["soon", "26", 26, 26.5, True, "0h", "-1h", "1w", "1.5h", "h", "", None, "9" * 12 + "d"]
)
def test_a_duration_without_a_unit_is_refused(said: object) -> None:
    message = refusal(freshness={"warn": said})
    assert message.startswith("freshness.warn is ")
    assert message.endswith(": write a duration as a number with s, m, h or d, like 26h")


@pytest.mark.parametrize("fail", ["26h", "25h"])
def test_a_warning_comes_before_the_failure(fail: str) -> None:
    assert refusal(freshness={"fail": fail}) == "freshness: warn must be shorter than fail"


@pytest.mark.parametrize(
    "schedule",
    ["0 2 * * *", "*/15 0-6,22 1,15 jan-mar MON-fri", "59 23 31 12 7", "0-30/10 * * * 0"],
)
def test_a_schedule_is_what_cron_takes(schedule: str) -> None:
    assert declared(schedule=schedule).schedule == schedule
    assert is_valid_cron_string(schedule)


def test_spaces_in_a_schedule_are_made_single() -> None:
    assert declared(schedule=" 0  2 *\t* * ").schedule == "0 2 * * *"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            "daily",
            "write five fields, minute, hour, day of month, month, weekday, like '0 2 * * *'",
        ),
        ("@daily", "write five fields"),
        ("0 0 2 * * *", "write five fields"),
        ("", "write five fields"),
        ("99 2 * * *", "minute '99' is not within 0-59"),
        ("0 24 * * *", "hour '24' is not within 0-23"),
        ("0 2 0 * *", "day of month '0' is not within 1-31"),
        ("0 2 * 13 *", "month '13' is not within 1-12"),
        ("0 2 * * 8", "weekday '8' is not within 0-7"),
        ("0 2 * * jan", "weekday 'jan' is not within 0-7"),
        ("0 2 * mon *", "month 'mon' is not within 1-12"),
        ("0 2,-3 * * *", "hour '2,-3' is not *, a number, a range or a list of them"),
        ("0 2 L * *", "day of month 'L' is not within 1-31"),
        ("0 5-2 * * *", "hour '5-2' runs backwards"),
        ("*/0 2 * * *", "minute '*/0' has a step that is not within 1-59"),
        ("5/10 2 * * *", "minute '5/10': a step needs * or a range before it"),
        ("٣ 2 * * *", "minute '٣' is not within 0-59"),
    ],
)
def test_a_wrong_schedule_is_named_with_its_field(schedule: str, message: str) -> None:
    assert refusal(schedule=schedule).startswith(f"schedule is {schedule!r}: {message}")


FIELD = st.from_regex(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?|[a-z]{3})(/[0-9]{1,2})?", fullmatch=True)


@given(st.lists(st.lists(FIELD, min_size=1, max_size=3).map(",".join), min_size=5, max_size=5))
def test_every_schedule_that_is_taken_is_one_that_dagster_takes(fields: list[str]) -> None:
    try:
        schedule = normal_cron(" ".join(fields))
    except ValueError:
        return
    assert is_valid_cron_string(schedule)
