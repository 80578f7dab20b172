"""Encodes by an OpenAI-compatible endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from embeddings_pipeline.encoders.batching import Item, Stream, as_filled, in_order
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Stop, TokenCount, Usage
from embeddings_pipeline.encoders.openai.client import (
    PROBE,
    Fitted,
    Patience,
    Requests,
    Session,
    answered,
    fitted,
)
from embeddings_pipeline.encoders.openai.endpoint import Endpoint
from embeddings_pipeline.encoders.openai.models import RemoteModel
from embeddings_pipeline.encoders.openai.rate_limits import NoLimits, RateLimits
from embeddings_pipeline.encoders.openai.responses import Refused
from embeddings_pipeline.encoders.openai.truncation import estimate
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import Settings

# smaller requests than this are not worth sending side by side
_LEAST_BATCH_TOKENS = 8_000
# texts of a stream that are counted at once
_CHUNK_TEXTS = 512


@dataclass(frozen=True)
class Options:
    """How a provider is asked: the most texts and tokens in one request, and requests in flight.

    OpenAI takes 2,048 texts and 300,000 tokens in one request.
    """

    batch_texts: int = 2_048
    batch_tokens: int = 300_000
    in_flight: int = 4
    patience: Patience = field(default_factory=Patience)


def options_of(settings: Settings) -> Options:
    """Requests no larger than EMBEDDING_BATCH_SIZE, and than a minute's tokens."""
    default = Options()
    a_minute = settings.embedding_tokens_per_minute or default.batch_tokens
    return Options(
        batch_texts=min(settings.embedding_batch_size, default.batch_texts),
        batch_tokens=min(a_minute, default.batch_tokens),
    )


class OpenAIEncoder:
    """A model of the endpoint. `dimension` shortens its vectors. Any number of threads may use it.
    Once `stopping`, it waits for nothing any more.

    Raises ConfigurationError for a dimension that the model is known not to give.
    """

    def __init__(
        self,
        model: str,
        remote: RemoteModel,
        endpoint: Endpoint,
        *,
        dimension: int | None = None,
        limits: RateLimits | None = None,
        options: Options | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        _check_dimension(model, remote, dimension)
        self._model = model
        self._remote = remote
        self._endpoint = endpoint
        self._wanted = dimension
        self._options = options or Options()
        self._limits = limits or NoLimits()
        self._stopping = stopping

    @cached_property
    def identity(self) -> ModelIdentity:
        """The model. Where its dimension is not known, the provider is asked once.

        The same name at two hosts may be two models, so the revision names a host that is not
        OpenAI's own.
        """
        name = self._remote.name
        return ModelIdentity(
            provider="openai",
            model=self._model,
            revision=name if self._endpoint.is_default else f"{name}@{self._endpoint.host}",
            dimension=self._wanted or self._own_dimension,
            max_tokens=self._remote.max_tokens,
            normalized=self._remote.normalized,
        )

    @property
    def device(self) -> str:
        """The host that computes."""
        return self._endpoint.host

    @property
    def token_count(self) -> TokenCount:
        """About how many tokens the provider will count in a text."""
        return TokenCount(estimate, exact=False)

    def check(self) -> None:
        """Make the client. A key is tried by the first request, not before."""
        _ = self._requests

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of the texts; of those that the provider refuses, the reason. Where it fails
        after some, theirs are not lost: see `Encodings.stopped`."""
        started = time.monotonic()
        vectors = np.zeros((len(texts), self.identity.dimension), np.float32)
        failures: dict[int, str] = {}
        usage = Usage()
        read: set[int] = set()
        stopped = None
        items = fitted([Item(*numbered) for numbered in enumerate(texts)], self._remote.max_tokens)
        lengths = [item.tokens for item in items]
        options = self._options
        share = max(_LEAST_BATCH_TOKENS, -(-sum(lengths) // options.in_flight))
        batches = in_order(
            lengths,
            max_tokens=min(options.batch_tokens, share),
            max_texts=options.batch_texts,
        )
        with closing(
            self._sent(lambda *_: ([items[i] for i in batch] for batch in batches))
        ) as sent:
            try:
                for places, made, _ in sent:
                    vectors[places] = made.vectors
                    failures |= {places[i]: why for i, why in made.failures.items()}
                    usage += made.usage
                    read.update(places)
            except Exception as error:
                # nothing is known of any text but that it is empty: to refuse one takes a probe
                if not usage.tokens:
                    raise
                stopped = error
                left = (place for place in range(len(texts)) if place not in read)
                failures |= dict.fromkeys(left, str(error))
        usage = replace(usage, seconds=time.monotonic() - started)
        return Encodings(vectors, usage, failures, stopped)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Vectors of documents, batch by batch; see `Encoder.encode_stream`.

        A batch is what became of one request, and as many requests are in flight as may be. What
        ends the run, or that it is `stopping`, is raised once those in flight have been answered,
        within two seconds; no more are sent meanwhile. The tokens of all batches are what was
        billed: a batch without texts has those of answers that cannot be used.
        """
        options = self._options

        def cut(stream: Stream, session: Session) -> Iterator[Sequence[Item[Fitted]]]:
            items = stream.stage(
                partial(fitted, max_tokens=self._remote.max_tokens),
                stream.read(texts, room=_CHUNK_TEXTS),
                most=_CHUNK_TEXTS,
                # a batch for each request
                room=options.in_flight * options.batch_tokens,
                least=options.batch_tokens // options.batch_texts,
            )
            return as_filled(
                items,
                max_texts=options.batch_texts,
                max_tokens=options.batch_tokens,
                check=session.check,
            )

        return self._sent(cut)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """The same as for documents: such an endpoint makes no difference. Raises what ended the
        call, whatever it had made."""
        return self.encode_documents(texts).whole()

    def close(self) -> None:
        """Close the connections, if any were opened."""
        if "_requests" in self.__dict__:
            self._requests.close()

    def _sent(
        self, cut: Callable[[Stream, Session], Iterable[Sequence[Item[Fitted]]]]
    ) -> Generator[EncodedBatch, None, None]:
        """What becomes of batches of a stream, each sent as one request."""
        in_flight = self._options.in_flight
        session = Session(
            self._requests,
            dimension=self.identity.dimension,
            shortened=self.identity.dimension != self._own_dimension,
            stopping=self._stopping,
        )
        stream = Stream(running=in_flight, held=2 * in_flight)
        # closed from the last to the first
        with ThreadPoolExecutor(in_flight) as pool, closing(stream), closing(session):
            yield from stream.batches(cut(stream, session), partial(answered, session), pool)

    @cached_property
    def _requests(self) -> Requests:
        try:
            return Requests(self._remote.name, self._endpoint, self._limits, self._options.patience)
        except ImportError:
            raise ConfigurationError(
                f"model {self._model!r} needs the package openai: install"
                " embeddings-pipeline[openai]"
            ) from None

    @cached_property
    def _own_dimension(self) -> int:
        """How many dimensions the model has where none are asked for."""
        if self._remote.dimension is not None:
            return self._remote.dimension
        try:
            answer = self._requests.send([PROBE], tokens=1, stopped=Stop(self._stopping))
        except Refused as refusal:
            raise ConfigurationError(
                f"the dimension of model {self._model!r} cannot be asked: {refusal}"
            ) from None
        return len(answer.vectors[0])


def _check_dimension(model: str, remote: RemoteModel, dimension: int | None) -> None:
    own = remote.dimension
    if dimension is None or own is None or dimension == own:
        return
    if dimension > own or not remote.shortens:
        raise ConfigurationError(
            f"model {model!r} gives {own} dimensions{' or fewer' if remote.shortens else ''};"
            f" `dimension: {dimension}` cannot be had"
        )
