"""The models of the service: remembered, batched and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.encoders.encoder import Encodings, Kind, Seeing
from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound, Unavailable
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.batching import BatchedEncoder, BatchedImageEncoder
from embeddings_pipeline.service.metrics import Metrics
from embeddings_pipeline.store.vectors.vector_set import VectorSet

# to load a model, or to read a batch of long texts, on a slow machine
_TIMEOUT_SECONDS = 60


class Models:
    """Encodes for searches and for whoever asks. Safe between threads."""

    def __init__(
        self, pipeline: Pipeline, live_sets: Callable[[], Sequence[VectorSet]], metrics: Metrics
    ) -> None:
        self._encoders = pipeline.encoders
        self._default = pipeline.settings.embedding_model
        self._live_sets = live_sets
        self._metrics = metrics
        self._made: dict[ModelIdentity, CachedEncoder] = {}
        self._batched: list[BatchedEncoder] = []
        self._loaded: set[ModelIdentity] = set()
        self._lock = Lock()

    @property
    def loaded(self) -> set[ModelIdentity]:
        """The models that have been used."""
        return set(self._loaded)

    def default(self) -> ModelIdentity:
        """EMBEDDING_MODEL. Raises Unavailable where it is not to be had."""
        with _had():
            return self._encoders.get(self._default).identity

    def named(self, model: str | None, dimension: int | None) -> ModelIdentity:
        """The one of `served` that is asked for. Raises NotFound that names the choices, and as
        `default` does."""
        if model in (None, self._default) and dimension is None:
            return self.default()
        choices = [identity for identity, _ in self.served()]
        for identity in choices:
            if model in (None, identity.model) and dimension in (None, identity.dimension):
                return identity
        said = ", ".join(f"{choice.model} ({choice.dimension})" for choice in choices)
        wanted = "" if dimension is None else f" with dimension {dimension}"
        raise NotFound(f"model {model or self._default!r}{wanted} is none of these: {said}")

    def served(self) -> list[tuple[ModelIdentity, list[str]]]:
        """The default and those of published vectors, each with the entities that have it."""
        entities: dict[ModelIdentity, list[str]] = {}
        with suppress(Unavailable):
            entities[self.default()] = []
        for vector_set in self._live_sets():
            entities.setdefault(vector_set.identity, []).append(vector_set.entity)
        return list(entities.items())

    def load(self, identity: ModelIdentity) -> None:
        """Make a model ready. Raises Unavailable where it is not to be had."""
        encoder = self._encoder(identity)
        with _had():
            encoder.check()
        self._loaded.add(identity)

    def vector_of(self, identity: ModelIdentity, query: str | bytes) -> Vector:
        """The vector of a text or of an image's bytes, for a search. Raises as `encode` does, and
        ConfigurationError for a query that the model does not take."""
        if isinstance(query, bytes):
            encodings = self._encode_image(identity, query)
        else:
            encodings = self.encode("query", identity, [query])
        if encodings.failures:
            raise ConfigurationError(f"the query cannot be encoded: {encodings.failures[0]}")
        vector: Vector = encodings.vectors[0]
        return vector

    def encode(
        self, kind: Kind, identity: ModelIdentity, texts: Sequence[str], *, use_cache: bool = True
    ) -> Encodings:
        """Vectors of texts by this model. Raises Unavailable where it is not to be had, or does
        not answer in time; ConfigurationError for documents that would be images."""
        remembering = self._encoder(identity)
        if kind == "document" and isinstance(remembering.uncached, Seeing):
            # nobody has the service fetch what they name
            raise ConfigurationError(
                f"documents of model {identity.model!r} are images: encode a text as a query"
            )
        encoder = remembering if use_cache else remembering.uncached
        encode = encoder.encode_query if kind == "query" else encoder.encode_documents
        with _had():
            return self._counted(identity, encode(texts)).whole()

    def cost(self, identity: ModelIdentity, encodings: Encodings) -> float:
        """What it took in US dollars."""
        return encodings.usage.tokens * self.usd_per_token(identity)

    def usd_per_token(self, identity: ModelIdentity) -> float:
        """What a token costs with this model."""
        return self._encoders.usd_per_token(identity.model)

    def close(self) -> None:
        """Wait for what the models read, but for no provider that does not answer."""
        with self._encoders.until(lambda: True):
            for encoder in self._batched:
                encoder.close()

    def _encode_image(self, identity: ModelIdentity, data: bytes) -> Encodings:
        seeing = self._encoder(identity).seeing
        with _had():
            encodings = seeing.encode_image(data)
        return self._counted(identity, encodings)

    def _counted(self, identity: ModelIdentity, encodings: Encodings) -> Encodings:
        if encodings.usage.texts:
            self._loaded.add(identity)
        self._metrics.answered(identity.model, encodings.usage, self.cost(identity, encodings))
        return encodings

    def _encoder(self, identity: ModelIdentity) -> CachedEncoder:
        with self._lock:
            if identity not in self._made:
                self._made[identity] = self._make(identity)
            return self._made[identity]

    def _make(self, identity: ModelIdentity) -> CachedEncoder:
        with _had():
            inner = self._encoders.identical(identity)
        report = partial(self._metrics.generated, identity.model)
        if isinstance(inner, ImageEncoder):
            batched: BatchedEncoder = BatchedImageEncoder(inner, report, timeout=_TIMEOUT_SECONDS)
        else:
            batched = BatchedEncoder(inner, report, timeout=_TIMEOUT_SECONDS)
        self._batched.append(batched)
        # below the cache, so that what is remembered waits for nobody
        return CachedEncoder(batched, self._encoders.cache)


@contextmanager
def _had() -> Iterator[None]:
    """A model that cannot be had is nothing that who asks could put right."""
    try:
        yield
    except ConfigurationError as error:
        raise Unavailable(str(error)) from error
