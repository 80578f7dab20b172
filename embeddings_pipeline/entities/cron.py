"""When a schedule runs: five fields of numbers, as cron has them."""

from __future__ import annotations

import re
from itertools import pairwise

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# first and last number, and the names that count from the first
_FIELDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day of month": (1, 31, ()),
    "month": (1, 12, _MONTHS),
    "weekday": (0, 7, _DAYS),
}


def normal_cron(schedule: str) -> str:
    """The schedule with single spaces. Raises ValueError that names the wrong field."""
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"write five fields, {', '.join(_FIELDS)}, like '0 2 * * *'")
    for name, field in zip(_FIELDS, fields, strict=True):
        for part in field.lower().split(","):
            _check(name, field, part)
    return " ".join(fields)


def _check(name: str, field: str, part: str) -> None:
    first, last, names = _FIELDS[name]
    match = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/([0-9]+))?", part)
    if not match:
        raise ValueError(f"{name} {field!r} is not *, a number, a range or a list of them")
    start, end, step = match.groups()
    numbers = [_number(word, first, names) for word in (start, end) if word is not None]
    if any(number is None or not first <= number <= last for number in numbers):
        raise ValueError(f"{name} {field!r} is not within {first}-{last}")
    if any(a is not None and b is not None and a > b for a, b in pairwise(numbers)):
        raise ValueError(f"{name} {field!r} runs backwards")
    if step is not None and not (start is None or end is not None):
        raise ValueError(f"{name} {field!r}: a step needs * or a range before it")
    if step is not None and not 1 <= int(step) <= last:
        raise ValueError(f"{name} {field!r} has a step that is not within 1-{last}")


def _number(word: str, first: int, names: tuple[str, ...]) -> int | None:
    if word in names:
        return first + names.index(word)
    return int(word) if re.fullmatch(r"[0-9]{1,2}", word) else None
