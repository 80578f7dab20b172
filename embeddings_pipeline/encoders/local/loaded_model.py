"""The interface of a local model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embeddings_pipeline.encoders.local.workers import Workers
from embeddings_pipeline.entities.model import Vectors

if TYPE_CHECKING:
    from PIL.Image import Image

# the token ids of one text
Tokens: TypeAlias = NDArray[np.int32]


class BatchLimits(NamedTuple):
    """The most texts and the most tokens in one batch."""

    texts: int
    tokens: int


# where nothing else is known to be faster
DEFAULT_LIMITS = BatchLimits(texts=256, tokens=2048)
# of a BERT on a CPU, whose workers should end at nearly one time; larger batches are no faster
CPU_LIMITS = DEFAULT_LIMITS._replace(tokens=1024)


class PreparedInput(NamedTuple):
    """An input in the form that the model takes: token ids, a text, or an image.

    `tokens` is the length of a text before the model truncates it; for an image, the number of
    tokens that the model makes of the image.
    """

    tokens: int
    content: Tokens | str | Image


class LoadedModel(Protocol):
    """A model that tokenises many texts at once, so that texts of like length share a batch."""

    @property
    def adds_prompts(self) -> bool:
        """Whether `encode` puts the prompts in the model's files before the texts."""

    @property
    def workers(self) -> Workers | None:
        """The threads that may call `encode` at the same time. None allows one thread."""

    @property
    def limits(self) -> BatchLimits:
        """The size of batches with which the model is fast on its device."""

    def prepare(self, texts: Sequence[str], *, query: bool) -> list[PreparedInput]:
        """Return each text with its length in tokens, the prompt included where the model adds
        prompts; see `encode` for `query`."""

    def encode(self, batch: Sequence[PreparedInput], *, query: bool) -> Vectors:
        """Return the vectors of one batch, float32, shape (batch, the model's full dimension).

        `query` selects the model's query prompt rather than its document prompt, where the model
        adds prompts.
        """
