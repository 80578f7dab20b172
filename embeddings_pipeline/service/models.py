"""The models of the service, with a cache, batching and metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

import numpy as np
from anyio.from_thread import check_cancelled

from embeddings_pipeline.encoders.cache.encoder import CachedEncoder
from embeddings_pipeline.encoders.encoder import Encodings, ImageQueryEncoder, Kind, Usage
from embeddings_pipeline.encoders.images.encoder import ImageEncoder
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from embeddings_pipeline.errors import ConfigurationError, NotFound, Unavailable
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.search.batching import BatchedEncoder, BatchedImageEncoder
from embeddings_pipeline.service.metrics import Metrics
from embeddings_pipeline.store.vector_sets import VectorSet

# enough to load a model on a slow machine
_TIMEOUT_SECONDS = 60
# time for which a local model encodes a slice of a batch, while queries wait; characters of the
# first slice, one or two long texts; and the most texts of a slice
_SLICE_SECONDS, _SLICE_CHARACTERS, _SLICE_TEXTS = 0.03, 1_000, 32
# characters that a token has at least, on average: a model reads no more of a long text
_TOKEN_CHARACTERS = 4


class Models:
    """Encodes for searches and for the /embed routes. Thread-safe."""

    def __init__(
        self, pipeline: Pipeline, live_sets: Callable[[], Sequence[VectorSet]], metrics: Metrics
    ) -> None:
        self._encoders = pipeline.encoders
        self._default = pipeline.settings.embedding_model
        self._live_sets = live_sets
        self._metrics = metrics
        self._cached_encoders: dict[tuple[ModelIdentity, str], CachedEncoder] = {}
        self._batched: list[BatchedEncoder] = []
        self._loaded: set[ModelIdentity] = set()
        # tokens that a model encodes in a second
        self._speeds: dict[ModelIdentity, float] = {}
        self._lock = Lock()

    @property
    def loaded(self) -> set[ModelIdentity]:
        """The models that are loaded."""
        return set(self._loaded)

    def default(self) -> ModelIdentity:
        """Return the identity of EMBEDDING_MODEL. Raises Unavailable where it is missing."""
        with _as_unavailable():
            return self._encoders.get(self._default).identity

    def named(
        self,
        model: str | None,
        dimension: int | None,
        entity: str | None = None,
        kind: Kind = "document",
    ) -> ModelIdentity:
        """Return the model of `served` with this name and dimension, or the model of an entity with
        the entity's query prompt; None means any.

        Raises NotFound with the choices, ConfigurationError where the query prompt of the model
        depends on the entity, and Unavailable as `default` does.
        """
        if entity is not None:
            return self._of_entity(entity, model, dimension)
        if model in (None, self._default) and dimension is None:
            return self.default()
        choices = [identity for identity, _ in self.served()]
        for identity in choices:
            if model in (None, identity.model) and dimension in (None, identity.dimension):
                if kind == "query":
                    self._refuse_several_prompts(identity)
                return identity
        names = ", ".join(f"{choice.model} ({choice.dimension})" for choice in choices)
        condition = "" if dimension is None else f" with dimension {dimension}"
        raise NotFound(
            f"model {model or self._default!r}{condition} is not served (models: {names})"
        )

    def _of_entity(self, entity: str, model: str | None, dimension: int | None) -> ModelIdentity:
        live = {vector_set.entity: vector_set.identity for vector_set in self._live_sets()}
        if entity not in live:
            names = ", ".join(live) or "none yet"
            raise NotFound(f"there is no entity {entity!r} (published: {names})")
        identity = live[entity]
        if model in (None, identity.model) and dimension in (None, identity.dimension):
            return identity
        raise NotFound(
            f"entity {entity!r} has vectors of model {identity.model!r} with dimension"
            f" {identity.dimension}: leave out model and dimension, or name these"
        )

    def _refuse_several_prompts(self, identity: ModelIdentity) -> None:
        prompts = {s.entity: s.query_prompt for s in self._live_sets() if s.identity == identity}
        if len({*prompts.values()}) > 1:
            raise ConfigurationError(
                f"model {identity.model!r} has several query prompts: name an entity"
                f" ({', '.join(prompts)})"
            )

    def served(self) -> list[tuple[ModelIdentity, list[str]]]:
        """Return the default model and the models of published vectors, each with its entities."""
        entities: dict[ModelIdentity, list[str]] = {}
        with suppress(Unavailable):
            entities[self.default()] = []
        for vector_set in self._live_sets():
            entities.setdefault(vector_set.identity, []).append(vector_set.entity)
        return list(entities.items())

    def load(self, identity: ModelIdentity) -> None:
        """Load a model. Raises Unavailable where the model is missing."""
        encoder = self._encoder(identity)
        with _as_unavailable():
            encoder.check()
        self._loaded.add(identity)

    def vector_of(self, identity: ModelIdentity, query: str | bytes) -> Vector:
        """Return the vector of a text or of an image's bytes, shape (dimension,).

        Raises as `encode` does, and ConfigurationError for a query that the model rejects.
        """
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
        """Return the vectors of texts by this model.

        Raises Unavailable where the model is missing or too slow, and ConfigurationError for
        documents of an image model.
        """
        cached = self._encoder(identity)
        if kind == "document" and isinstance(cached.uncached, ImageQueryEncoder):
            # a document is a URI: the service must not fetch URIs that callers name
            raise ConfigurationError(
                f"documents of model {identity.model!r} are images: encode a text as a query"
            )
        encoder = cached if use_cache else cached.uncached
        encode = encoder.encode_query if kind == "query" else encoder.encode_documents
        with _as_unavailable():
            return self._counted(identity, encode(texts)).raise_if_stopped()

    def encode_batch(
        self, kind: Kind, identity: ModelIdentity, texts: Sequence[str], *, use_cache: bool = True
    ) -> Encodings:
        """Return the vectors of many texts, as `encode` does, and let queries be encoded between
        slices of them. Ends between two slices where the request was cancelled."""
        parts: list[Encodings] = []
        done = 0
        while done < len(texts):
            check_cancelled()
            some = texts[done : done + self._slice(identity, texts[done : done + _SLICE_TEXTS])]
            parts.append(self.encode(kind, identity, some, use_cache=use_cache))
            usage = parts[-1].usage
            if usage.seconds:
                self._speeds[identity] = usage.tokens / usage.seconds
            done += len(some)
        return _joined(parts)

    def _slice(self, identity: ModelIdentity, texts: Sequence[str]) -> int:
        """Return how many of the next texts are a slice."""
        with _as_unavailable():
            device = self._encoder(identity).device
        # a provider's device is its host; its answers take as long for one text
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
            return len(texts)
        characters = self._speeds.get(identity, 0.0) * _SLICE_SECONDS * _TOKEN_CHARACTERS
        left = max(characters, _SLICE_CHARACTERS)
        for count, text in enumerate(texts):
            left -= min(len(text), identity.max_tokens * _TOKEN_CHARACTERS)
            if count and left < 0:
                return count
        return len(texts)

    def tokens(self, identity: ModelIdentity, texts: Sequence[str], usage: Usage) -> int:
        """Return how many tokens the model reads of the texts that were encoded with this usage,
        whether or not their vectors were cached."""
        if not usage.cached:
            return usage.tokens
        # a provider reports the tokens of a call, not of a text
        lengths = self._encoder(identity).token_count.of(texts)
        return sum(min(length, identity.max_tokens) for length in lengths)

    def cost(self, identity: ModelIdentity, encodings: Encodings) -> float:
        """Return the cost of the encodings in US dollars."""
        return encodings.usage.tokens * self.usd_per_token(identity)

    def usd_per_token(self, identity: ModelIdentity) -> float:
        """Return the price of one token of this model in US dollars."""
        return self._encoders.usd_per_token(identity.model)

    def close(self) -> None:
        """Wait for running calls of the models, but not for a provider that does not answer."""
        with self._encoders.stop_all():
            for encoder in self._batched:
                encoder.close()

    def _encode_image(self, identity: ModelIdentity, data: bytes) -> Encodings:
        images = self._encoder(identity).image_encoder
        with _as_unavailable():
            encodings = images.encode_image(data)
        return self._counted(identity, encodings)

    def _counted(self, identity: ModelIdentity, encodings: Encodings) -> Encodings:
        if encodings.usage.texts:
            self._loaded.add(identity)
        self._metrics.answered(identity.model, encodings.usage, self.cost(identity, encodings))
        return encodings

    def _encoder(self, identity: ModelIdentity) -> CachedEncoder:
        with self._lock:
            # equal identities may have other prompts for queries
            key = (identity, identity.query_prompt)
            if key not in self._cached_encoders:
                self._cached_encoders[key] = self._make(identity)
            return self._cached_encoders[key]

    def _make(self, identity: ModelIdentity) -> CachedEncoder:
        with _as_unavailable():
            inner = self._encoders.for_identity(identity)
        report = partial(self._metrics.generated, identity.model)
        if isinstance(inner, ImageEncoder):
            batched: BatchedEncoder = BatchedImageEncoder(inner, report, timeout=_TIMEOUT_SECONDS)
        else:
            batched = BatchedEncoder(inner, report, timeout=_TIMEOUT_SECONDS)
        self._batched.append(batched)
        # the cache is outermost, so that a cached query does not wait for a batch
        return CachedEncoder(batched, self._encoders.cache)


def _joined(parts: Sequence[Encodings]) -> Encodings:
    """Join the encodings of the slices of a batch."""
    failures: dict[int, str] = {}
    start = 0
    for part in parts:
        failures |= {start + index: why for index, why in part.failures.items()}
        start += len(part.vectors)
    return Encodings(
        np.concatenate([part.vectors for part in parts]),
        sum((part.usage for part in parts), Usage()),
        failures,
    )


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Turn a ConfigurationError of a model into Unavailable: the caller cannot correct it."""
    try:
        yield
    except ConfigurationError as error:
        raise Unavailable(str(error)) from error
