"""The types of a declaration's values. A ValueError says what to write instead."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from embeddings_pipeline.entities.template import template_columns

# Postgres silently truncates names to 63 bytes; the longest suffix is _vectors_123456_index_new
_MAX_NAME = 38
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_CRON_FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day of month": "1-31",
    "month": "1-12",
    "weekday": "0-7",
}


class StrictModel(BaseModel):
    """A part of a declaration: a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _no_boolean(value: object) -> object:
    # yml's yes and no are booleans, which Python accepts as numbers
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", value) or len(value) > _MAX_NAME:
        raise ValueError(
            f"a name has lower-case letters, digits and _, no digit first, and at most {_MAX_NAME}"
            " characters: set another with `entity:`"
        )
    return value


def _each_once(columns: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} appears twice")
    return columns


def _template(value: str) -> str:
    template_columns(value)
    return value


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = (
        re.fullmatch(r"([1-9]\d{0,6})\s*([smhd])", value.strip())
        if isinstance(value, str)
        else None
    )
    if not match:
        raise ValueError("write a duration as a number with s, m, h or d, like 26h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _day(value: object) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return date.fromisoformat(value)
    raise ValueError("write a day like 2026-01-01")


def _cron(value: str) -> str:
    # slow to import, and most entities have the default
    from croniter import CroniterBadDateError, croniter

    fields = value.split()
    schedule = " ".join(fields)
    if len(fields) == len(_CRON_FIELDS):
        for place, (name, numbers) in enumerate(_CRON_FIELDS.items()):
            alone = ["*"] * len(fields)
            alone[place] = fields[place]
            # croniter accepts the digits of any script
            if not fields[place].isascii() or not croniter.is_valid(" ".join(alone)):
                raise ValueError(
                    f"{name} {fields[place]!r} is not within {numbers}: write a number, *, a range,"
                    " a step or a list of those"
                )
        try:
            croniter(" ".join([*fields[:4], "*"])).get_next()
        except CroniterBadDateError:
            raise ValueError(f"month {fields[3]!r} has no day {fields[2]!r}") from None
    elif len(fields) != 1 or not croniter.is_valid(schedule):
        raise ValueError(
            f"write five fields, {', '.join(_CRON_FIELDS)}, like '0 2 * * *', or @hourly, @daily,"
            " @weekly, @monthly or @yearly"
        )
    return schedule


def _index(value: object) -> object:
    # `index: none` is short for {type: none}
    return {"type": value} if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_name)]
Column = Annotated[str, Field(min_length=1, max_length=63)]
Columns = Annotated[tuple[Column, ...], AfterValidator(_each_once)]
Template = Annotated[str, AfterValidator(_template)]
# the text search configurations of Postgres 14, the oldest supported server
Language = Literal[
    "simple",
    "arabic",
    "armenian",
    "basque",
    "catalan",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "nepali",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "serbian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "yiddish",
]
Cron = Annotated[str, AfterValidator(_cron)]
Day = Annotated[date, BeforeValidator(_day)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(lambda value: f"{value.total_seconds():.0f}s", str, when_used="json"),
]
TypeOrOptions = BeforeValidator(_index)
