"""The partitions of an entity's rows: by a hash of the id, or by the day of a column (UTC)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Literal

from pydantic import Field

from embeddings_pipeline.entities.values import Column, Day, StrictModel, Whole
from embeddings_pipeline.errors import ConfigurationError, RowError


class HashPartitions(StrictModel):
    """`count` buckets by a hash of the row's id. For tables whose rows change."""

    by: Literal["hash"] = "hash"
    count: Whole = Field(8, ge=1, le=1024)

    def keys(self) -> list[str]:
        """Return the keys in order, zero-padded so that text order is numeric order."""
        return [*self._keys]

    def key_of(self, row_id: str) -> str:
        """Return the key of a row: the first 8 hex digits of md5(id as text), modulo count."""
        digest = hashlib.md5(row_id.encode(), usedforsecurity=False).digest()
        keys = self._keys
        return keys[int.from_bytes(digest[:4]) % len(keys)]

    @property
    def width(self) -> int:
        """The number of digits of a key."""
        return max(2, len(str(self.count - 1)))

    @cached_property
    def _keys(self) -> list[str]:
        return [str(bucket).zfill(self.width) for bucket in range(self.count)]


class DayPartitions(StrictModel):
    """One partition for each day of `column`, from `start` on. For append-only events."""

    by: Literal["day"]
    column: Column
    start: Day
    lookback_days: Whole = Field(7, ge=1, le=3650)

    def keys(self) -> list[str]:
        """Return every day from `start` to today (UTC), today included."""
        days = (today() - self.start).days
        return [(self.start + timedelta(days=n)).isoformat() for n in range(max(days, 0) + 1)]

    def key_of(self, day: str | None) -> str:
        """Return the key of a row of this day; no day, or a day before `start`, has the first key.

        Raises RowError for a day in the future, which has no partition yet.
        """
        # the range of Postgres' dates exceeds Python's at both ends
        if day is None or day == "-infinity" or day.endswith(" BC"):
            return self.start.isoformat()
        is_beyond = len(day) > len("9999-12-31") or day == "infinity"
        if is_beyond or date.fromisoformat(day) > today():
            raise RowError(f"{self.column} is {day}, after today")
        return max(date.fromisoformat(day), self.start).isoformat()

    def recent(self) -> list[str]:
        """Return the keys of a scheduled run: the last `lookback_days` days and today."""
        return self.keys()[-(self.lookback_days + 1) :]


Partitions = HashPartitions | DayPartitions


def today() -> date:
    """Return the current day in UTC."""
    return datetime.now(UTC).date()


def select_keys(selection: str, keys: Sequence[str]) -> list[str]:
    """Return the keys that a selection names, in order: `a`, `a..b`, or several with commas.

    Raises ConfigurationError for an unknown key, with the choices, and for a reversed range.
    """
    chosen: set[str] = set()
    for part in selection.split(","):
        first, dots, last = part.strip().partition("..")
        ends = [first, last if dots else first]
        for key in ends:
            if key not in keys:
                raise ConfigurationError(
                    f"partition {key!r} does not exist (partitions: {keys[0]}..{keys[-1]})"
                )
        begin, end = (keys.index(key) for key in ends)
        if begin > end:
            raise ConfigurationError(
                f"partitions {part.strip()} are in reverse order: write {last}..{first}"
            )
        chosen.update(keys[begin : end + 1])
    return [key for key in keys if key in chosen]
