"""Scores a query beside each text with a cross-encoder, which reads the two together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from embeddings_pipeline.encoders.local.devices import device_for
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class Rerankers:
    """The cross-encoders of a process, each loaded when it is first used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, CrossEncoder] = {}
        self._lock = Lock()

    def scores(self, model: str, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers the query; the greater, the better.

        Raises ConfigurationError where the model is not at hand: nothing is downloaded.
        """
        if not texts:
            return []
        with self._lock:
            if model not in self._loaded:
                self._loaded[model] = self._load(model)
            scores = self._loaded[model].predict(
                [(query, text) for text in texts], show_progress_bar=False
            )
        return [float(score) for score in scores]

    def _load(self, model: str) -> CrossEncoder:
        device = device_for(self._settings.embedding_device)
        from sentence_transformers import CrossEncoder

        try:
            loaded: CrossEncoder = CrossEncoder(
                model,
                device=device,
                num_labels=1,
                cache_folder=_folder(self._settings.embedding_model_cache_dir),
                local_files_only=True,
                # never pickled weights, never code
                model_kwargs={"use_safetensors": True},
                trust_remote_code=False,
            )
            return loaded
        # a missing model, corrupt weights and unknown parts each raise a kind of their own
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                f"re-ranker {model!r} cannot be loaded ({reason}): put it into the hub's cache on"
                " this machine, or give the folder that has it"
            ) from None


def _folder(path: Path | None) -> str | None:
    return os.fspath(path) if path else None
