"""Makes the encoder that a model's name asks for: one on this machine, or one of a provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from embeddings_pipeline.encoders import local_models
from embeddings_pipeline.encoders.image_encoder import ImageEncoder
from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.encoders.model_files import describe, vision
from embeddings_pipeline.encoders.openai_models import RemoteModel
from embeddings_pipeline.encoders.rate_limits import RateLimits
from embeddings_pipeline.encoders.sentence_transformers import SentenceTransformersEncoder
from embeddings_pipeline.encoders.shared_model import Options, SharedModel
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from embeddings_pipeline.encoders.openai import OpenAIEncoder


def shared_model(model: str, settings: Settings) -> SharedModel:
    """A model of this machine, not loaded yet.

    Raises ConfigurationError where it is not at hand, or not made of parts that can be run.
    """
    folder = local_models.find(model, settings)
    trusted = settings.trusts(model)
    return SharedModel(
        describe(model, folder, None, trusted=trusted),
        folder,
        Options(
            device=settings.embedding_device,
            precision=settings.embedding_precision,
            batch_texts=settings.embedding_batch_size,
            batch_tokens=settings.embedding_batch_tokens,
            trusted=trusted,
        ),
    )


def local_encoder(
    model: SharedModel, dimension: int | None, images: ImageFiles
) -> SentenceTransformersEncoder | ImageEncoder:
    """An encoder by a model of this machine; one that sees has images for documents.

    Raises ConfigurationError for a dimension that it cannot give.
    """
    name, folder = model.identity.model, model.folder
    identity = describe(name, folder, dimension, trusted=model.options.trusted)
    encoder = SentenceTransformersEncoder(identity, model)
    seen = vision(name, folder)
    return ImageEncoder(encoder, seen, images) if seen else encoder


def remote_encoder(
    model: str,
    remote: RemoteModel,
    dimension: int | None,
    settings: Settings,
    limits: RateLimits,
    stopping: Callable[[], bool],
) -> OpenAIEncoder:
    """A model of the provider in OPENAI_BASE_URL. Raises ConfigurationError without its key."""
    from embeddings_pipeline.encoders.openai import OpenAIEncoder, options_of
    from embeddings_pipeline.encoders.openai_endpoint import endpoint_of

    return OpenAIEncoder(
        model,
        remote,
        endpoint_of(settings),
        dimension=dimension,
        limits=limits,
        options=options_of(settings),
        stopping=stopping,
    )
