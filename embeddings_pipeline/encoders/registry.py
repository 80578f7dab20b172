"""One encoder for each model that is asked for, made once and loaded when it is used."""

from __future__ import annotations

from functools import cached_property
from threading import Lock

from embeddings_pipeline.encoders import local_models
from embeddings_pipeline.encoders.base import Encoder
from embeddings_pipeline.encoders.cache import Cache
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.model_files import describe
from embeddings_pipeline.encoders.prices import usd_per_token
from embeddings_pipeline.encoders.sentence_transformers import Options, SentenceTransformersEncoder
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings


class Encoders:
    """The encoders of a process, by model and dimension. Safe between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[tuple[str, int | None], CachedEncoder] = {}
        self._lock = Lock()

    @cached_property
    def cache(self) -> Cache:
        """The vectors that all of them remember."""
        return Cache(self._settings)

    def of(self, entity: Entity) -> CachedEncoder:
        """The encoder that an entity declares, or the default."""
        return self.get(entity.model or self._settings.embedding_model, entity.dimension)

    def get(self, model: str, dimension: int | None = None) -> CachedEncoder:
        """The encoder of a model, its own dimension unless another is asked for.

        Raises ConfigurationError where it cannot be found, or where encoding is switched off.
        """
        if not self._settings.embedding_enabled:
            raise ConfigurationError("EMBEDDING_ENABLED is false: nothing is encoded")
        key = (model, dimension)
        with self._lock:
            if key not in self._made:
                folder = local_models.find(model, self._settings)
                self.add(
                    SentenceTransformersEncoder(
                        describe(model, folder, dimension),
                        folder,
                        Options(
                            device=self._settings.embedding_device,
                            precision=self._settings.embedding_precision,
                            batch_texts=self._settings.embedding_batch_size,
                            batch_tokens=self._settings.embedding_batch_tokens,
                        ),
                    ),
                    dimension,
                )
            return self._made[key]

    def identical(self, identity: ModelIdentity) -> CachedEncoder:
        """The encoder that makes vectors comparable with those of this identity.

        Raises ConfigurationError where the model cannot be found or has other weights by now.
        """
        for encoder in list(self._made.values()):
            if encoder.identity == identity:
                return encoder
        encoder = self.get(identity.model, identity.dimension)
        if encoder.identity.revision != identity.revision:
            raise ConfigurationError(
                f"model {identity.model!r} has other weights now (sha256"
                f" {encoder.identity.revision[:12]}, not {identity.revision[:12]})"
            )
        return encoder

    def usd_per_token(self, model: str) -> float:
        """What a token costs with this model, by EMBEDDING_PRICES or the price list."""
        return usd_per_token(model, self._settings.embedding_prices)

    def add(self, encoder: Encoder, dimension: int | None = None) -> None:
        """Use this encoder for its model, and remember what it makes."""
        model = encoder.identity.model
        # what costs nothing is made again as fast as it is read
        documents = self.usd_per_token(model) > 0
        self._made[model, dimension] = CachedEncoder(encoder, self.cache, documents=documents)

    def cleanup(self) -> None:
        """Let go of every model and its memory, and of the cache's connections."""
        self._made.clear()
        if "cache" in self.__dict__:
            self.cache.close()
