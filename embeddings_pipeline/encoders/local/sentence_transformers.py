"""Runs models with the sentence-transformers library."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, cast

from embeddings_pipeline.encoders.local.loaded_model import (
    DEFAULT_LIMITS,
    BatchLimits,
    PreparedInput,
)
from embeddings_pipeline.encoders.local.model_files import file_prompts
from embeddings_pipeline.encoders.local.tokenizer import token_count
from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.entities.model import Vectors
from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# tokens of a batch on a card, padding included
_CARD_TOKENS = 16_384
# tokens that each tokenizer knows; one of characters has some hundred
_FEWEST_TOKENS = 32


class SentenceTransformersModel:
    """A model loaded by sentence-transformers; a `trusted` model may run its own code. Without
    `own_prompts` the prompts in its files are not used.

    Loading may raise any exception of sentence-transformers, and encodes two short texts, since
    some models load and then fail on every text.
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
        self._require_tokenizer(folder)
        self._model.max_seq_length = max_tokens
        if not own_prompts:
            self._model.prompts, self._model.default_prompt_name = {}, None
        self._token_count = token_count(folder)
        self._prompts = file_prompts(folder) if own_prompts else Prompts()
        try:
            self.encode(self.prepare(["a", "a red shoe"], query=False), query=False)
        except KeyError as error:
            raise ConfigurationError(
                f"the parts of the model in {folder} make no {error} of a text: choose another"
                " model"
            ) from error

    @property
    def workers(self) -> None:
        """None: the tokenizer is not safe for several threads."""

    @property
    def limits(self) -> BatchLimits:
        """The size of batches; a card is idle while it waits for small ones."""
        on_card = self._model.device.type == "cuda"
        return DEFAULT_LIMITS._replace(tokens=_CARD_TOKENS) if on_card else DEFAULT_LIMITS

    def prepare(self, texts: Sequence[str], *, query: bool) -> list[PreparedInput]:
        """Return the texts with their lengths in tokens, the prompt included; `encode` truncates
        them."""
        prompt = self._prompts.query if query else self._prompts.document
        lengths = self._token_count.of([prompt + text for text in texts])
        return [*map(PreparedInput, lengths, texts)]

    def encode(self, batch: Sequence[PreparedInput], *, query: bool) -> Vectors:
        """Return the vectors of one batch of texts or images, float32, shape (batch, dimension)."""
        contents = [cast("str | Image", prepared.content) for prepared in batch]
        encode = self._model.encode_query if query else self._model.encode_document
        return cast(Vectors, encode(contents, batch_size=len(batch), show_progress_bar=False))

    def _require_tokenizer(self, folder: Path) -> None:
        tokenizer = self._model.tokenizer
        if getattr(tokenizer, "pad_token", "") is None:
            raise ConfigurationError(
                f"the model in {folder} has no padding token, without which texts of different"
                " lengths cannot share a batch: name one in its tokenizer_config.json, for example"
                f' "pad_token": "{tokenizer.eos_token}"'
            )
        # without its files `transformers` makes a tokenizer that knows special tokens alone
        if isinstance(tokenizer, Sized) and len(tokenizer) < _FEWEST_TOKENS:
            raise ConfigurationError(
                f"the tokenizer in {folder} knows {len(tokenizer)} tokens: its tokenizer.json or"
                " vocabulary is missing: download the model again"
            )


def _hush() -> None:
    """Keep `transformers` from printing a progress bar and a table when a model is loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
