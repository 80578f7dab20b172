"""Which model makes vectors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """Two vectors may be compared where these are equal. `max_tokens` is what the model reads of
    a text; `revision` is the sha256 of its weights, or the provider's name for it."""

    provider: str
    model: str
    revision: str
    dimension: int
    max_tokens: int
    normalized: bool
