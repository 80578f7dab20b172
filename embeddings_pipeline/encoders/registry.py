"""Creates and keeps one encoder for each model and dimension. The model itself is loaded on first
use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from embeddings_pipeline.encoders.cache.encoder import Cache
from embeddings_pipeline.encoders.encoder import ImageQueryEncoder, StreamingEncoder
from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.encoders.images.sources import ImageFiles
from embeddings_pipeline.encoders.local import download
from embeddings_pipeline.encoders.local.description import describe, shortened, vision
from embeddings_pipeline.encoders.local.encoder import SentenceTransformersEncoder
from embeddings_pipeline.encoders.local.known_models import IMAGE_MODELS, KNOWN_MODELS
from embeddings_pipeline.encoders.local.loading import LocalOptions
from embeddings_pipeline.encoders.local.shared_model import SharedModel
from embeddings_pipeline.encoders.openai.models import RemoteModel, remote_model
from embeddings_pipeline.encoders.openai.rate_limits import RateLimits, Transaction
from embeddings_pipeline.encoders.prices import usd_per_token
from embeddings_pipeline.encoders.prompts import PromptedEncoder
from embeddings_pipeline.entities.entity import Entity, Prompts
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

if TYPE_CHECKING:
    from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder


# whether to stop, for the calls of one thread: a run that stops must not end the searches of others
_stopping: ContextVar[Callable[[], bool]] = ContextVar("stopping", default=lambda: False)


class _Key(NamedTuple):
    """What tells encoders apart: `prompts` are put before the texts of the model; None leaves them
    to the prompts in its files."""

    model: str
    dimension: int | None
    prompts: Prompts | None


class Encoders:
    """The encoders of a process, by model and dimension. Thread-safe.

    `transaction` opens a transaction in the database through which processes share rate limits.
    """

    def __init__(self, settings: Settings, transaction: Transaction | None = None) -> None:
        self._settings = settings
        self._transaction = transaction
        self._closing = ExitStack()
        self._all_stopped = False
        self._encoders: dict[_Key, StreamingEncoder] = {}
        self._local_models: dict[tuple[str, bool], SharedModel] = {}
        self._lock = Lock()

    @cached_property
    def cache(self) -> Cache:
        """The cache of the vectors of queries and of documents encoded over HTTP."""
        cache = Cache(self._settings)
        self._closing.callback(cache.close)
        return cache

    @cached_property
    def images(self) -> ImageFiles:
        """The reader of images that entities refer to by URI."""
        images = ImageFiles(self._settings)
        self._closing.callback(images.close)
        return images

    def for_entity(self, entity: Entity, stored: Iterable[ModelIdentity] = ()) -> StreamingEncoder:
        """Return the encoder of an entity's model, or of EMBEDDING_MODEL.

        `stored` are the identities of the entity's sets. A provider's model that is among them has
        the same dimension still, even if a single answer has another.

        Raises ConfigurationError where the entity declares `image` and the model reads only text,
        or the reverse.
        """
        model = entity.model or self._settings.embedding_model
        encoder = self.get(model, entity.dimension, entity.prompts)
        if remote_model(model):
            from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder

            inner = encoder.inner if isinstance(encoder, PromptedEncoder) else encoder
            if isinstance(inner, OpenAIEncoder):
                inner.expect(stored)
        reads_images = isinstance(encoder, ImageQueryEncoder)
        if entity.image and not reads_images:
            raise ConfigurationError(
                f"entity {entity.name!r}: model {model!r} reads only text; `image` needs a model"
                f" that reads images: declare `model`, for example {' or '.join(IMAGE_MODELS)}"
            )
        if reads_images and not entity.image:
            raise ConfigurationError(
                f"entity {entity.name!r}: the documents of model {model!r} are images: declare"
                " `image`, or a text model as `model`"
            )
        return encoder

    def get(
        self, model: str, dimension: int | None = None, prompts: Prompts | None = None
    ) -> StreamingEncoder:
        """Return the encoder of a model. `dimension` shortens the vectors; None keeps the model's.

        Declared `prompts` replace the model's own: those in its files, or where these have none,
        those that a known model's card asks for.

        Raises ConfigurationError where the model is not found, or EMBEDDING_ENABLED is false.
        """
        self._require_enabled()
        if prompts is None:
            prompts = self._card_prompts(model)
        return self._encoder(_Key(model, dimension, prompts))

    def _card_prompts(self, model: str) -> Prompts | None:
        """The prompts of a known model whose files have none."""
        card = KNOWN_MODELS.get(model)
        if card is None or card.prompts is None:
            return None
        return card.prompts_for(download.find_or_download(model, self._settings))

    def _require_enabled(self) -> None:
        if not self._settings.embedding_enabled:
            raise ConfigurationError("EMBEDDING_ENABLED is false: nothing is encoded")

    def _encoder(self, key: _Key) -> StreamingEncoder:
        self._require_enabled()
        with self._lock:
            if key not in self._encoders:
                own_prompts = key.prompts is None
                made = self._make(key.model, key.dimension, own_prompts=own_prompts)
                some = key.prompts if key.prompts != Prompts() else None
                self._encoders[key] = PromptedEncoder(made, some) if some else made
            return self._encoders[key]

    def for_identity(self, identity: ModelIdentity) -> StreamingEncoder:
        """Return the encoder whose vectors are comparable with vectors of this identity.

        Raises ConfigurationError where the model is not found, or its weights, dimension or
        maximum length differ from the identity.
        """
        prompts = Prompts(query=identity.query_prompt, document=identity.document_prompt)
        # vectors without stored prompts have those in the model's files, or none
        choices: list[Prompts | None] = [prompts] if prompts != Prompts() else [None, prompts]
        for key, encoder in list(self._encoders.items()):
            known = key.model == identity.model and key.prompts in choices
            if known and encoder.identity == identity:
                return encoder
        for choice in choices:
            encoder = self._encoder(_Key(identity.model, identity.dimension, choice))
            if encoder.identity == identity:
                return encoder
        raise ConfigurationError(
            f"model {identity.model!r} has changed: the vectors were made with"
            f" {_described(identity)}; the current model is {_described(encoder.identity)}"
        )

    def usd_per_token(self, model: str) -> float:
        """Return the price of one token in US dollars, from EMBEDDING_PRICES or the price list.

        Returns 0 where neither has a price for the model.
        """
        return usd_per_token(model, self._settings.embedding_prices) or 0.0

    def require_price(self, model: str) -> None:
        """Raise ConfigurationError for a model without a price."""
        if usd_per_token(model, self._settings.embedding_prices) is None:
            raise ConfigurationError(
                f"model {model!r} has no price, so a cost limit cannot be kept: set"
                f" EMBEDDING_PRICES='{{\"{model}\": …}}', in US dollars per million tokens (0 for a"
                " free model), or run without --max-cost and EMBEDDING_MAX_COST_USD"
            )

    def add(self, encoder: StreamingEncoder, dimension: int | None = None) -> None:
        """Use this encoder for its model, in place of one created here."""
        self._encoders[_Key(encoder.identity.model, dimension, None)] = encoder

    @contextmanager
    def stop_when(self, stopping: Callable[[], bool]) -> Iterator[None]:
        """Within this block encoders stop waiting for a provider once `stopping` returns true, in
        calls of this thread."""
        former = _stopping.set(stopping)
        try:
            yield
        finally:
            _stopping.reset(former)

    @contextmanager
    def stop_all(self) -> Iterator[None]:
        """Within this block encoders do not wait for a provider, in calls of any thread."""
        self._all_stopped = True
        try:
            yield
        finally:
            self._all_stopped = False

    def cleanup(self) -> None:
        """Release every model, the cache, and all connections."""
        self._closing.close()
        self._encoders.clear()
        self._local_models.clear()
        # a caller that goes on gets new ones, which the next cleanup closes
        for name in ("cache", "images"):
            vars(self).pop(name, None)

    def _make(self, model: str, dimension: int | None, *, own_prompts: bool) -> StreamingEncoder:
        remote = remote_model(model)
        if remote is None:
            key = (model, own_prompts)
            if key not in self._local_models:
                self._local_models[key] = shared_model(
                    model, self._settings, own_prompts=own_prompts
                )
            return local_encoder(self._local_models[key], dimension, self.images)
        if model == self._settings.embedding_model and self._settings.embedding_model_path:
            raise ConfigurationError(
                "EMBEDDING_MODEL_PATH is the folder of a local model, but EMBEDDING_MODEL"
                f" {model!r} is a provider's model: unset one of them"
            )
        encoder = remote_encoder(
            model,
            remote,
            dimension,
            settings=self._settings,
            limits=self._limits,
            stop_signal=self._stop_signal,
        )
        self._closing.callback(encoder.close)
        return encoder

    def _stop_signal(self) -> Callable[[], bool]:
        stopping = _stopping.get()
        return lambda: self._all_stopped or stopping()

    @cached_property
    def _limits(self) -> RateLimits | None:
        """The rate limits, shared by all models: a provider counts their requests together."""
        requests = self._settings.embedding_requests_per_minute
        tokens = self._settings.embedding_tokens_per_minute
        if self._transaction is None or not (requests or tokens):
            return None
        return RateLimits(self._transaction, requests=requests, tokens=tokens)


def _described(identity: ModelIdentity) -> str:
    """Describe an identity to a person."""
    weights = identity.revision
    if identity.provider != "openai":
        weights = f"sha256 {weights[:12]}"
    length = "of length 1" if identity.normalized else "of any length"
    return f"{weights}, {identity.dimension} dimensions {length}, {identity.max_tokens} tokens"


def shared_model(model: str, settings: Settings, *, own_prompts: bool = True) -> SharedModel:
    """Return a model of this machine, not loaded yet.

    Raises ConfigurationError where the model is not found, or has parts that are not supported.
    """
    folder = download.find_or_download(model, settings)
    trusted = settings.trusts(model)
    return SharedModel(
        describe(model, folder, trusted=trusted, own_prompts=own_prompts),
        folder,
        LocalOptions(
            device=settings.embedding_device,
            precision=settings.embedding_precision,
            kernels=settings.embedding_cpu_kernels,
            batch_texts=settings.embedding_batch_size,
            batch_tokens=settings.embedding_batch_tokens,
            trusted=trusted,
            own_prompts=own_prompts,
        ),
    )


def local_encoder(
    model: SharedModel, dimension: int | None, images: ImageFiles
) -> SentenceTransformersEncoder | ImageEncoder:
    """Return an encoder of a model of this machine; for a model of images, an ImageEncoder.

    Raises ConfigurationError for a dimension larger than the model's.
    """
    encoder = SentenceTransformersEncoder(shortened(model.identity, dimension), model)
    seen = vision(model.identity.model, model.folder)
    return ImageEncoder(encoder, seen, images) if seen else encoder


def remote_encoder(
    model: str,
    remote: RemoteModel,
    dimension: int | None,
    settings: Settings,
    limits: RateLimits | None,
    stop_signal: Callable[[], Callable[[], bool]],
) -> OpenAIEncoder:
    """Return an encoder of a model at OPENAI_BASE_URL.

    Raises ConfigurationError where OpenAI's own endpoint has no key.
    """
    from embeddings_pipeline.encoders.openai.encoder import OpenAIEncoder, request_options
    from embeddings_pipeline.encoders.openai.endpoint import endpoint_of

    return OpenAIEncoder(
        model,
        remote,
        endpoint_of(settings),
        dimension=dimension,
        limits=limits,
        options=request_options(settings),
        stop_signal=stop_signal,
    )
