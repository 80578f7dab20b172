"""One encoder for each model and dimension that are asked for. It is made here; its model is
loaded once, when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from embeddings_pipeline.encoders.cache.encoder import Cache
from embeddings_pipeline.encoders.encoder import Seeing, StreamingEncoder
from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.encoders.images.sources import ImageFiles
from embeddings_pipeline.encoders.local import download
from embeddings_pipeline.encoders.local.download import IMAGE_MODELS
from embeddings_pipeline.encoders.local.encoder import SentenceTransformersEncoder
from embeddings_pipeline.encoders.local.model_files import describe, vision
from embeddings_pipeline.encoders.local.shared_model import Options, SharedModel
from embeddings_pipeline.encoders.openai.models import RemoteModel, remote_model
from embeddings_pipeline.encoders.openai.rate_limits import (
    NoLimits,
    RateLimits,
    SharedLimits,
    Transaction,
)
from embeddings_pipeline.encoders.prices import usd_per_token
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder


class Encoders:
    """The encoders of a process, by model and dimension. Safe between threads.

    `transaction` opens one in the database by which processes share their rate limits.
    """

    def __init__(self, settings: Settings, transaction: Transaction | None = None) -> None:
        self._settings = settings
        self._transaction = transaction
        self._closing = ExitStack()
        self._stopping: Callable[[], bool] = lambda: False
        self._made: dict[tuple[str, int | None], StreamingEncoder] = {}
        self._local: dict[str, SharedModel] = {}
        self._lock = Lock()

    @cached_property
    def cache(self) -> Cache:
        """What queries, and documents that are asked for one by one, are remembered in."""
        cache = Cache(self._settings)
        self._closing.callback(cache.close)
        return cache

    @cached_property
    def images(self) -> ImageFiles:
        """What reads the images that entities and queries name."""
        from embeddings_pipeline.encoders.images.sources import ImageFiles

        images = ImageFiles(self._settings)
        self._closing.callback(images.close)
        return images

    def of(self, entity: Entity) -> StreamingEncoder:
        """The encoder that an entity declares, or the default.

        Raises ConfigurationError for images without a model that sees them, or such a model
        without images.
        """
        model = entity.model or self._settings.embedding_model
        encoder = self.get(model, entity.dimension)
        sees = isinstance(encoder, Seeing)
        if entity.image and not sees:
            raise ConfigurationError(
                f"entity {entity.name!r}: model {model!r} reads text alone; `image` needs one that"
                f" sees images, like {' or '.join(IMAGE_MODELS)}: declare it as `model`"
            )
        if sees and not entity.image:
            raise ConfigurationError(
                f"entity {entity.name!r}: the documents of model {model!r} are images: declare"
                " `image`, or a model of text"
            )
        return encoder

    def get(self, model: str, dimension: int | None = None) -> StreamingEncoder:
        """The encoder of a model, its own dimension unless another is asked for.

        Raises ConfigurationError where it cannot be found, or where encoding is switched off.
        """
        if not self._settings.embedding_enabled:
            raise ConfigurationError("EMBEDDING_ENABLED is false: nothing is encoded")
        key = (model, dimension)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(model, dimension)
            return self._made[key]

    def identical(self, identity: ModelIdentity) -> StreamingEncoder:
        """The encoder that makes vectors comparable with those of this identity.

        Raises ConfigurationError where the model cannot be found, or has other weights or reads
        texts of another length by now.
        """
        for (model, _), encoder in list(self._made.items()):
            if model == identity.model and encoder.identity == identity:
                return encoder
        encoder = self.get(identity.model, identity.dimension)
        if encoder.identity != identity:
            raise ConfigurationError(
                f"model {identity.model!r} is another now: {_described(encoder.identity)}, where"
                f" it was {_described(identity)}"
            )
        return encoder

    def usd_per_token(self, model: str) -> float:
        """What a token costs with this model, by EMBEDDING_PRICES or the price list; nothing where
        neither has it."""
        return usd_per_token(model, self._settings.embedding_prices) or 0.0

    def require_price(self, model: str) -> None:
        """Raise ConfigurationError where nobody knows what this model costs."""
        if usd_per_token(model, self._settings.embedding_prices) is None:
            raise ConfigurationError(
                f"model {model!r} has no price, so that no run can stop before it costs more than"
                f" it may: set EMBEDDING_PRICES='{{\"{model}\": …}}', in US dollars for a million"
                " tokens (0 where it costs nothing), or give no --max-cost and no"
                " EMBEDDING_MAX_COST_USD"
            )

    def add(self, encoder: StreamingEncoder, dimension: int | None = None) -> None:
        """Use this encoder for its model."""
        self._made[encoder.identity.model, dimension] = encoder

    @contextmanager
    def until(self, stopping: Callable[[], bool]) -> Iterator[None]:
        """A block of work in which no encoder waits for a provider once it is `stopping`."""
        former, self._stopping = self._stopping, stopping
        try:
            yield
        finally:
            self._stopping = former

    def cleanup(self) -> None:
        """Let go of every model, its memory and its connections, those of the cache too."""
        self._closing.close()
        self._made.clear()
        self._local.clear()
        # whoever goes on gets others, which are closed by the next cleanup
        for name in ("cache", "images"):
            vars(self).pop(name, None)

    def _make(self, model: str, dimension: int | None) -> StreamingEncoder:
        # an unchanged run needs the identity of a model, and nothing that runs one

        remote = remote_model(model)
        if remote is None:
            if model not in self._local:
                self._local[model] = shared_model(model, self._settings)
            return local_encoder(self._local[model], dimension, self.images)
        if model == self._settings.embedding_model and self._settings.embedding_model_path:
            raise ConfigurationError(
                "EMBEDDING_MODEL_PATH is the folder of a local model, and EMBEDDING_MODEL"
                f" {model!r} is a provider's: unset one of them"
            )
        encoder = remote_encoder(
            *(model, remote, dimension, self._settings, self._limits),
            stopping=self._is_stopping,
        )
        self._closing.callback(encoder.close)
        return encoder

    def _is_stopping(self) -> bool:
        return self._stopping()

    @cached_property
    def _limits(self) -> RateLimits:
        """The same for all models: a provider counts them together."""
        requests = self._settings.embedding_requests_per_minute
        tokens = self._settings.embedding_tokens_per_minute
        if self._transaction is None or not (requests or tokens):
            return NoLimits()
        return SharedLimits(self._transaction, requests=requests, tokens=tokens)


def _described(identity: ModelIdentity) -> str:
    """What tells the vectors of a model from others, for a person."""
    weights = identity.revision
    if identity.provider != "openai":
        weights = f"sha256 {weights[:12]}"
    length = "of length 1" if identity.normalized else "of any length"
    return f"{weights}, {identity.dimension} dimensions {length}, {identity.max_tokens} tokens"


def shared_model(model: str, settings: Settings) -> SharedModel:
    """A model of this machine, not loaded yet.

    Raises ConfigurationError where it is not at hand, or not made of parts that can be run.
    """
    folder = download.find(model, settings)
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
    from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder, options_of
    from embeddings_pipeline.encoders.openai.endpoint import endpoint_of

    return OpenAIEncoder(
        model,
        remote,
        endpoint_of(settings),
        dimension=dimension,
        limits=limits,
        options=options_of(settings),
        stopping=stopping,
    )
