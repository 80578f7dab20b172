"""The encoder of a model at an OpenAI-compatible endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from embeddings_pipeline.encoders.batching import batches_in_order
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Stop, TokenCount, Usage
from embeddings_pipeline.encoders.openai.client import PROBE, Client, Format, Refusal, Timeouts
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.isolation import (
    RequestText,
    Session,
    send_batch,
    truncate_texts,
)
from embeddings_pipeline.encoders.openai.models import RemoteModel
from embeddings_pipeline.encoders.openai.rate_limits import RateLimits
from embeddings_pipeline.encoders.openai.truncation import estimate
from embeddings_pipeline.encoders.stream import Item, Stream, fill_batches
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

# texts of a request where EMBEDDING_BATCH_SIZE is not set
_BATCH_TEXTS = 256
# splitting a call into smaller parallel requests than this saves no time
_MIN_BATCH_TOKENS = 8_000
# texts of a stream whose tokens are counted at once
_CHUNK_TEXTS = 512


@dataclass(frozen=True)
class RequestOptions:
    """The most texts and tokens in one request, the most requests in flight, and the format of
    vectors; without one, the first that works.

    OpenAI accepts at most 2,048 texts and 300,000 tokens in one request
    (platform.openai.com/docs/api-reference/embeddings, from memory).
    """

    batch_texts: int = 2_048
    batch_tokens: int = 300_000
    in_flight: int = 16
    timeouts: Timeouts = field(default_factory=Timeouts)
    format: Format | None = None


def request_options(settings: Settings) -> RequestOptions:
    """Return options whose requests keep EMBEDDING_BATCH_SIZE, EMBEDDING_TOKENS_PER_MINUTE and
    EMBEDDING_REQUESTS_IN_FLIGHT."""
    default = RequestOptions()
    a_minute = settings.embedding_tokens_per_minute or default.batch_tokens
    return RequestOptions(
        batch_texts=min(settings.embedding_batch_size or _BATCH_TEXTS, default.batch_texts),
        batch_tokens=min(a_minute, default.batch_tokens),
        in_flight=settings.embedding_requests_in_flight,
        format=settings.openai_encoding_format,
    )


class OpenAIEncoder:
    """Encodes with a model of the endpoint; `dimension` shortens its vectors. Thread-safe.

    `stop_signal` returns the signal of the calling thread: a call stops waiting once that function
    returns true. Raises ConfigurationError for a dimension that a known model does not support.
    """

    def __init__(
        self,
        model: str,
        remote: RemoteModel,
        endpoint: Endpoint,
        *,
        dimension: int | None = None,
        limits: RateLimits | None = None,
        options: RequestOptions | None = None,
        stop_signal: Callable[[], Callable[[], bool]] = lambda: lambda: False,
    ) -> None:
        _check_dimension(model, remote, dimension)
        self._model = model
        self._remote = remote
        self._endpoint = endpoint
        self._dimension = dimension
        self._options = options or RequestOptions()
        self._limits = limits
        self._stop_signal = stop_signal
        self._stored: set[int] = set()

    def expect(self, stored: Iterable[ModelIdentity]) -> None:
        """Tell of identities whose vectors are stored: this model's have the same dimension."""
        self._stored |= {
            other.dimension
            for other in stored
            if (other.provider, other.model, other.revision)
            == ("openai", self._model, self._revision)
        }

    @cached_property
    def identity(self) -> ModelIdentity:
        """The identity of the model. An unknown dimension takes one request to the provider.

        Raises EmbeddingsError where that request fails, and ConfigurationError where its answer is
        not of a dimension that is stored.
        """
        return ModelIdentity(
            provider="openai",
            model=self._model,
            revision=self._revision,
            dimension=self._dimension or self._own_dimension,
            max_tokens=self._remote.max_tokens,
            normalized=self._remote.normalized,
        )

    @property
    def _revision(self) -> str:
        # one name at two hosts may mean two models
        name = self._remote.name
        return name if self._endpoint.is_default else f"{name}@{self._endpoint.name}"

    @property
    def device(self) -> str:
        """The provider's host."""
        return self._endpoint.host

    @property
    def token_count(self) -> TokenCount:
        """A counter that estimates how many tokens the provider counts in a text."""
        return TokenCount(estimate, exact=False)

    def check(self) -> None:
        """Create the client. The first request checks the key, not this method."""
        _ = self._client

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of the texts; a text that the provider rejects is in `failures`.

        An error after some texts were encoded keeps their vectors: see `Encodings.stopped`.
        """
        return self._encode(texts, is_query=False)

    def _encode(self, texts: Sequence[str], *, is_query: bool) -> Encodings:
        started = time.monotonic()
        vectors = np.zeros((len(texts), self.identity.dimension), np.float32)
        failures: dict[int, str] = {}
        usage = Usage()
        read: set[int] = set()
        stopped = None
        items = truncate_texts(
            [Item(*numbered) for numbered in enumerate(texts)], self._remote.max_tokens
        )
        lengths = [item.tokens for item in items]
        options = self._options
        share = max(_MIN_BATCH_TOKENS, -(-sum(lengths) // options.in_flight))
        batches = batches_in_order(
            lengths,
            max_tokens=min(options.batch_tokens, share),
            max_texts=options.batch_texts,
        )
        with closing(
            self._sent(
                lambda *_: ([items[i] for i in batch] for batch in batches), is_query=is_query
            )
        ) as sent:
            try:
                for places, made, _ in sent:
                    vectors[places] = made.vectors
                    failures |= {places[i]: why for i, why in made.failures.items()}
                    usage += made.usage
                    read.update(places)
            except Exception as error:
                # no text was encoded: without a billed request nothing was learnt of any text
                if not usage.tokens:
                    raise
                stopped = error
                left = (place for place in range(len(texts)) if place not in read)
                failures |= dict.fromkeys(left, str(error))
        usage = replace(usage, seconds=time.monotonic() - started)
        return Encodings(vectors, usage, failures, stopped)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Yield the vectors of documents batch by batch; see `StreamingEncoder.encode_stream`.

        A batch is the result of one request; up to `in_flight` requests run at the same time. An
        error that ends the run, or a stop, is raised after the requests in flight were answered,
        within two seconds; no more are sent meanwhile. The tokens of all batches are the billed
        tokens: a batch without texts has the tokens of invalid responses.
        """
        options = self._options

        def cut(stream: Stream, session: Session) -> Iterator[Sequence[Item[RequestText]]]:
            items = stream.stage(
                partial(truncate_texts, max_tokens=self._remote.max_tokens),
                stream.read(texts, capacity=_CHUNK_TEXTS),
                max_items=_CHUNK_TEXTS,
                # one batch for each request in flight
                capacity=options.in_flight * options.batch_tokens,
                min_weight=options.batch_tokens // options.batch_texts,
            )
            return fill_batches(
                items,
                max_texts=options.batch_texts,
                max_tokens=options.batch_tokens,
                check=session.check,
            )

        return self._sent(cut)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of queries; the endpoint encodes queries like documents.

        Raises the error that ended the call, even after some texts were encoded.
        """
        return self._encode(texts, is_query=True).raise_if_stopped()

    def close(self) -> None:
        """Close open connections."""
        if "_client" in self.__dict__:
            self._client.close()

    def _sent(
        self,
        cut: Callable[[Stream, Session], Iterable[Sequence[Item[RequestText]]]],
        *,
        is_query: bool = False,
    ) -> Generator[EncodedBatch, None, None]:
        """Send batches, each as one request, and yield the results."""
        in_flight = self._options.in_flight
        session = Session(
            self._client,
            dimension=self.identity.dimension,
            shortened=self.identity.dimension != self._own_dimension,
            is_query=is_query,
            stopping=self._stop_signal(),
        )
        stream = Stream(max_running=in_flight, max_held=2 * in_flight)
        # the session closes first, so that requests stop before the stream waits for them
        with ThreadPoolExecutor(in_flight) as pool, closing(stream), closing(session):
            yield from stream.batches(cut(stream, session), partial(send_batch, session), pool)

    @cached_property
    def _client(self) -> Client:
        options = self._options
        try:
            return Client(
                self._remote.name,
                self._endpoint,
                self._limits,
                options.timeouts,
                in_flight=options.in_flight,
                format=options.format,
            )
        except ImportError:
            raise ConfigurationError(
                f"model {self._model!r} needs the package openai: install"
                " embeddings-pipeline[openai]"
            ) from None

    @cached_property
    def _own_dimension(self) -> int:
        """The model's full dimension."""
        if self._remote.dimension is not None:
            return self._remote.dimension
        if self._dimension is None and len(self._stored) == 1:
            return next(iter(self._stored))
        try:
            answer = self._client.send([PROBE], tokens=1, stopped=Stop(self._stop_signal()))
        except Refusal as refusal:
            raise refusal.error from None
        found: int = answer.vectors.shape[1]
        if self._dimension is None and self._stored and found not in self._stored:
            raise ConfigurationError(
                f"model {self._model!r} answered with {found} dimensions, but its stored vectors"
                f" have {' or '.join(map(str, sorted(self._stored)))}: if the model was changed,"
                f" declare `dimension: {found}`"
            )
        return found


def _check_dimension(model: str, remote: RemoteModel, dimension: int | None) -> None:
    own = remote.dimension
    if dimension is None or own is None or dimension == own:
        return
    if dimension > own or not remote.shortens:
        raise ConfigurationError(
            f"model {model!r} supports {own} dimensions{' or fewer' if remote.shortens else ''},"
            f" not `dimension: {dimension}`"
        )
