"""A model in memory, whatever brought it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from embeddings_pipeline.encoders.local.cpu_workers import Lanes
from embeddings_pipeline.entities.model import Vectors

if TYPE_CHECKING:
    from PIL.Image import Image


class Prepared(NamedTuple):
    """A text as the model takes it: the ids of its tokens, or the text itself; or an image.

    `tokens` is its length before the model cuts it; of an image, what it is as large as.
    """

    tokens: int
    content: list[int] | str | Image


class LoadedModel(Protocol):
    """Prepares many texts at once, so that they can be put in batches by length.

    `lanes` are threads that may enter `encode` at once; without any, one thread may.
    """

    @property
    def lanes(self) -> Lanes | None:
        """They are made when the model is."""

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """Each text with its length."""

    def encode(self, batch: Sequence[Prepared], *, query: bool) -> Vectors:
        """Vectors of one batch, shape (texts, the model's own dimension), with the model's prompt
        for queries or for documents."""
