"""Values of filter columns as a snapshot compares them: numbers, or text that sorts as they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, TypeAlias
from uuid import UUID

from embeddings_pipeline.errors import ConfigurationError

Comparable: TypeAlias = int | float | str | None

_BOOLEANS = {"true": 1, "t": 1, "false": 0, "f": 0}


def _time(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=None).isoformat(timespec="microseconds")


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    # a time without a zone is in UTC, as in the pipeline's sessions
    with_zone = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return with_zone.astimezone(UTC).isoformat(timespec="microseconds")


_READ: Mapping[str, Callable[[str], Comparable]] = {
    "boolean": lambda text: _BOOLEANS[text.lower()],
    **dict.fromkeys(("smallint", "integer", "bigint"), int),
    **dict.fromkeys(("numeric", "real", "double precision"), float),
    **dict.fromkeys(("text", "character varying", "character"), str),
    "uuid": lambda text: str(UUID(text)),
    "date": lambda text: date.fromisoformat(text).isoformat(),
    "timestamp without time zone": _time,
    "timestamp with time zone": _moment,
}


def stored(kind: str, value: Any) -> Comparable:
    """A value that the database gave as JSON; what Python cannot read (infinity, a year beyond
    9999) is kept as its text."""
    read = _READ.get(_base(kind))
    if value is None or read is None:
        return None
    with suppress(ValueError, KeyError, OverflowError):
        return read(str(value))
    return str(value)


def asked(column: str, kind: str, value: Any) -> Comparable:
    """A value that a request names. Raises ConfigurationError where the column takes no such
    value, or is of a type that a snapshot does not compare."""
    read = _READ.get(_base(kind))
    if read is None:
        raise ConfigurationError(
            f"filter {column!r}: a snapshot does not compare values of type {kind}"
        )
    try:
        return read(str(value))
    except (ValueError, KeyError):
        raise ConfigurationError(
            f"filter {column!r}: {value!r} is no {kind}, as the column is"
        ) from None


def _base(kind: str) -> str:
    """A type without length or precision."""
    head, _, rest = kind.partition("(")
    return (head + rest.partition(")")[2]).strip()
