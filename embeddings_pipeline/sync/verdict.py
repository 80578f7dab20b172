"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Verdict:
    """What a check found. `metadata` holds plain values; a list of mappings is a table."""

    passed: bool
    description: str
    severity: Literal["warn", "error"] = "error"
    metadata: dict[str, Any] = field(default_factory=dict)
