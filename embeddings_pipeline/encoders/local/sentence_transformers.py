"""Runs any model that sentence-transformers can load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from embeddings_pipeline.encoders.encoder import token_count
from embeddings_pipeline.encoders.local.loaded_model import Prepared
from embeddings_pipeline.entities.model import Vectors

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class GeneralModel:
    """The loaded model; a `trusted` one may run code of its own. Raises what sentence-transformers
    raises where it cannot be loaded."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: torch.dtype,
        trusted: bool = False,
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
        self._token_count = token_count(folder)

    @property
    def lanes(self) -> None:
        """None: its tokenizer is not made for several threads."""

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """The texts with their tokens; the model's own tokenizer cuts them."""
        return [*map(Prepared, self._token_count.of(texts), texts)]

    def encode(self, batch: Sequence[Prepared], *, query: bool) -> Vectors:
        """Vectors of one batch of texts or of images, float32, shape (batch, dimension)."""
        contents = [cast("str | Image", prepared.content) for prepared in batch]
        encode = self._model.encode_query if query else self._model.encode_document
        return cast(Vectors, encode(contents, batch_size=len(batch), show_progress_bar=False))


def _hush() -> None:
    """Keep `transformers` from drawing a bar and a table each time that a model is loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
