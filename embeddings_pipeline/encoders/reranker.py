"""Re-ranks texts with a cross-encoder, a model that reads a query and a text together."""

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
    """The cross-encoders of a process, each loaded on first use. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, CrossEncoder] = {}
        self._lock = Lock()

    def scores(self, model: str, query: str, texts: Sequence[str]) -> list[float]:
        """Return a score for each text: the greater, the better the text answers the query.

        Raises ConfigurationError where the model is not on this machine: nothing is downloaded.
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
                # pickled weights and a model's own code could run anything
                model_kwargs={"use_safetensors": True},
                trust_remote_code=False,
            )
            return loaded
        # a missing model, corrupt weights and unknown parts raise different classes
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                f"re-ranker {model!r} cannot be loaded ({reason}): download it into the hub's cache"
                " on this machine, or name the folder that holds it"
            ) from None


def _folder(path: Path | None) -> str | None:
    return os.fspath(path) if path else None
