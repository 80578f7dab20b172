"""One encoder for each model that is asked for, made once and loaded when it is used."""

from __future__ import annotations

from embeddings_pipeline.encoders import local_models
from embeddings_pipeline.encoders.base import Encoder
from embeddings_pipeline.encoders.image_encoder import ImageEncoder
from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.encoders.model_files import describe, vision
from embeddings_pipeline.encoders.prices import usd_per_token
from embeddings_pipeline.encoders.sentence_transformers import Options, SentenceTransformersEncoder
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

_IMAGE_MODELS = ("sentence-transformers/clip-ViT-B-32", "openai/clip-vit-base-patch32")


class Encoders:
    """The encoders of a process, by model and dimension."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[tuple[str, int | None], Encoder] = {}
        self._of_images: set[str] = set()
        self.images = ImageFiles(settings)

    def of(self, entity: Entity) -> Encoder:
        """The encoder that an entity declares, or the default.

        Raises ConfigurationError for images without a model that sees them, or such a model
        without images.
        """
        model = entity.model or self._settings.embedding_model
        encoder = self.get(model, entity.dimension)
        if entity.image and model not in self._of_images:
            raise ConfigurationError(
                f"entity {entity.name!r}: model {model!r} reads text alone; `image` needs one that"
                f" sees images, like {' or '.join(_IMAGE_MODELS)}: declare it as `model`"
            )
        if model in self._of_images and not entity.image:
            raise ConfigurationError(
                f"entity {entity.name!r}: the documents of model {model!r} are images: declare"
                " `image`, or a model of text"
            )
        return encoder

    def get(self, model: str, dimension: int | None = None) -> Encoder:
        """The encoder of a model, its own dimension unless another is asked for.

        Raises ConfigurationError where it cannot be found, or where encoding is switched off.
        """
        if not self._settings.embedding_enabled:
            raise ConfigurationError("EMBEDDING_ENABLED is false: nothing is encoded")
        key = (model, dimension)
        if key not in self._made:
            folder = local_models.find(model, self._settings)
            encoder = SentenceTransformersEncoder(
                describe(model, folder, dimension),
                folder,
                Options(
                    device=self._settings.embedding_device,
                    precision=self._settings.embedding_precision,
                    batch_texts=self._settings.embedding_batch_size,
                    batch_tokens=self._settings.embedding_batch_tokens,
                ),
            )
            seen = vision(model, folder)
            if seen:
                self._of_images.add(model)
            self._made[key] = ImageEncoder(encoder, seen, self.images) if seen else encoder
        return self._made[key]

    def identical(self, identity: ModelIdentity) -> Encoder:
        """The encoder that makes vectors comparable with those of this identity.

        Raises ConfigurationError where the model cannot be found or has other weights by now.
        """
        for encoder in self._made.values():
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
        """Use this encoder for its model."""
        self._made[(encoder.identity.model, dimension)] = encoder

    def cleanup(self) -> None:
        """Let go of every model and its memory, and of connections to images."""
        self._made.clear()
        self.images.close()
