"""Which model makes vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np


@dataclass(frozen=True)
class ModelIdentity:
    """Two vectors may be compared where these are equal. `max_tokens` is what the model reads of
    a text; `revision` is the sha256 of its weights, or the provider's name for it;
    `document_prompt` stands in front of each document, but for prompts that the model's own files
    have, which are part of its revision."""

    provider: str
    model: str
    revision: str
    dimension: int
    max_tokens: int
    normalized: bool
    document_prompt: str = ""


# float32, shapes (texts, dimension) and (dimension,)
Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Vector: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
