"""Runs models with the sentence-transformers library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from embeddings_pipeline.encoders.encoder import token_count
from embeddings_pipeline.encoders.local.loaded_model import (
    DEFAULT_LIMITS,
    BatchLimits,
    PreparedInput,
)
from embeddings_pipeline.encoders.local.model_files import file_prompts
from embeddings_pipeline.entities.model import Vectors

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# tokens of a batch on a card, padding included
_CARD_TOKENS = 16_384


class SentenceTransformersModel:
    """A model loaded by sentence-transformers; a `trusted` model may run its own code. Without
    `own_prompts` the prompts in its files are not used.

    Loading may raise any exception of sentence-transformers.
    """

    # some models leave the prompt out of the mean
    adds_prompts = True

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: torch.dtype,
        trusted: bool = False,
        own_prompts: bool = True,
    ) -> None:
        from sentence_transformers import SentenceTransformer

        _hush()
        self._model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=trusted,
            model_kwargs={"use_safetensors": True, "dtype": dtype},
        )
        self._model.max_seq_length = max_tokens
        if not own_prompts:
            self._model.prompts, self._model.default_prompt_name = {}, None
        self._token_count = token_count(folder)
        self._prompt = file_prompts(folder).document if own_prompts else ""

    @property
    def workers(self) -> None:
        """None: the tokenizer is not safe for several threads."""

    @property
    def limits(self) -> BatchLimits:
        """The size of batches; a card is idle while it waits for small ones."""
        on_card = self._model.device.type == "cuda"
        return DEFAULT_LIMITS._replace(tokens=_CARD_TOKENS) if on_card else DEFAULT_LIMITS

    def prepare(self, texts: Sequence[str]) -> list[PreparedInput]:
        """Return the texts with their lengths in tokens, with the prompt of documents; `encode`
        truncates them."""
        lengths = self._token_count.of([self._prompt + text for text in texts])
        return [*map(PreparedInput, lengths, texts)]

    def encode(self, batch: Sequence[PreparedInput], *, query: bool) -> Vectors:
        """Return the vectors of one batch of texts or images, float32, shape (batch, dimension)."""
        contents = [cast("str | Image", prepared.content) for prepared in batch]
        encode = self._model.encode_query if query else self._model.encode_document
        return cast(Vectors, encode(contents, batch_size=len(batch), show_progress_bar=False))


def _hush() -> None:
    """Keep `transformers` from printing a progress bar and a table when a model is loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
