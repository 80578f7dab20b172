"""Schedules and durations of an entity."""

from __future__ import annotations

from datetime import timedelta

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import given
from hypothesis import strategies as st

from embeddings_pipeline.errors import ConfigurationError
from tests.support.declared import declared, refusal


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
    [
        "0 2 * * *",
        "*/15 0-6,22 1,15 jan-mar MON-fri",
        "59 23 31 12 7",
        "0-30/10 * * * 0",
        "5/10 22-2 L * *",
        "0 0 29 2 *",
        "0 0 * * mon#1",
        "@daily",
    ],
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
        ("@reboot", "write five fields"),
        ("0 0 2 * * *", "write five fields"),
        ("", "write five fields"),
        ("99 2 * * *", "minute '99' is not within 0-59"),
        ("0 24 * * *", "hour '24' is not within 0-23"),
        ("0 2 0 * *", "day of month '0' is not within 1-31"),
        ("0 2 * 13 *", "month '13' is not within 1-12"),
        ("0 2 * * 8", "weekday '8' is not within 0-7"),
        ("0 2 * * jan", "weekday 'jan' is not within 0-7"),
        ("0 2 * mon *", "month 'mon' is not within 1-12"),
        (
            "0 2,-3 * * *",
            "hour '2,-3' is not within 0-23: write a number, *, a range, a step or a list of those",
        ),
        ("*/0 2 * * *", "minute '*/0' is not within 0-59"),
        ("0 2 15W * *", "day of month '15W' is not within 1-31"),
        ("0 2 30 feb *", "month 'feb' has no day '30'"),
        ("0 2 30,31 2 1", "month '2' has no day '30,31'"),
        ("٣ 2 * * *", "minute '٣' is not within 0-59"),
    ],
)
def test_a_wrong_schedule_is_named_with_its_field(schedule: str, message: str) -> None:
    assert refusal(schedule=schedule).startswith(f"schedule is {schedule!r}: {message}")


FIELD = st.from_regex(
    r"(\*|\?|L|[0-9]{1,2}(-[0-9]{1,2})?|[a-z]{3})([/#][0-9]{1,2}|[LWHR])?", fullmatch=True
)


@given(st.lists(st.lists(FIELD, min_size=1, max_size=3).map(",".join), min_size=5, max_size=5))
def test_every_schedule_that_is_taken_is_one_that_dagster_takes(fields: list[str]) -> None:
    try:
        schedule = declared(schedule=" ".join(fields)).schedule
    except ConfigurationError:
        return
    assert is_valid_cron_string(schedule)
