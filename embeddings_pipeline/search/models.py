"""The models of the service: remembered, batched and counted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import Lock

from embeddings_pipeline.encoders.base import Encodings, Kind, Vector
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError, Unavailable
from embeddings_pipeline.search.batching import BatchedEncoder
from embeddings_pipeline.search.metrics import Metrics

# to load a model, or to read a batch of long texts, on a slow machine
_TIMEOUT_SECONDS = 60


class Models:
    """Encodes for searches and for whoever asks. Safe between threads."""

    def __init__(self, encoders: Encoders, metrics: Metrics) -> None:
        self._encoders = encoders
        self._metrics = metrics
        self._made: dict[ModelIdentity, CachedEncoder] = {}
        self._batched: list[BatchedEncoder] = []
        self._loaded: set[ModelIdentity] = set()
        self._lock = Lock()

    @property
    def loaded(self) -> set[ModelIdentity]:
        """The models that have been used."""
        return set(self._loaded)

    def default(self, model: str) -> ModelIdentity:
        """The identity of a model by its name. Raises Unavailable where it is not to be had."""
        try:
            return self._encoders.get(model).identity
        except ConfigurationError as error:
            raise Unavailable(str(error)) from error

    def load(self, identity: ModelIdentity) -> None:
        """Make a model ready. Raises Unavailable where it is not to be had."""
        encoder = self._encoder(identity)
        try:
            encoder.check()
        except ConfigurationError as error:
            raise Unavailable(str(error)) from error
        self._loaded.add(identity)

    def vector_of(self, identity: ModelIdentity, query: str) -> Vector:
        """The vector of a query, for a search. Raises as `encode` does, and ConfigurationError
        for a query that the model does not take."""
        encodings = self.encode("query", identity, [query])
        if encodings.failures:
            raise ConfigurationError(f"the query cannot be encoded: {encodings.failures[0]}")
        vector: Vector = encodings.vectors[0]
        return vector

    def encode(
        self, kind: Kind, identity: ModelIdentity, texts: Sequence[str], *, use_cache: bool = True
    ) -> Encodings:
        """Vectors of texts by this model. Raises Unavailable where it is not to be had, or does
        not answer in time."""
        remembering = self._encoder(identity)
        encoder = remembering if use_cache else remembering.uncached
        try:
            encodings = (
                encoder.encode_query(texts) if kind == "query" else encoder.encode_documents(texts)
            )
        except ConfigurationError as error:
            raise Unavailable(str(error)) from error
        if encodings.usage.texts:
            self._loaded.add(identity)
        self._metrics.answered(identity.model, encodings.usage, self.cost(identity, encodings))
        return encodings

    def cost(self, identity: ModelIdentity, encodings: Encodings) -> float:
        """What it took in US dollars."""
        return encodings.usage.tokens * self._encoders.usd_per_token(identity.model)

    def close(self) -> None:
        """Wait for what the models read."""
        for encoder in self._batched:
            encoder.close()

    def _encoder(self, identity: ModelIdentity) -> CachedEncoder:
        with self._lock:
            if identity not in self._made:
                self._made[identity] = self._make(identity)
            return self._made[identity]

    def _make(self, identity: ModelIdentity) -> CachedEncoder:
        try:
            inner = self._encoders.identical(identity).uncached
        except ConfigurationError as error:
            raise Unavailable(str(error)) from error
        report = partial(self._metrics.generated, identity.model)
        batched = BatchedEncoder(inner, report, timeout=_TIMEOUT_SECONDS)
        self._batched.append(batched)
        # below the cache, so that what is remembered waits for nobody
        return CachedEncoder(batched, self._encoders.cache, documents=True)
