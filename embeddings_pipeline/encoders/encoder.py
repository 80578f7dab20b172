"""The interface of every encoder, and the vectors and usage that one returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from threading import Event
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.model import ModelIdentity, Vectors

Kind: TypeAlias = Literal["document", "query"]


@dataclass(frozen=True)
class Usage:
    """The work that some texts took. Usages can be added.

    `texts` went through the model, which read `tokens` of them, as the model or its provider
    counts tokens. `truncated` of these texts had more tokens than the model reads. `cached` texts
    came from the cache. `seconds` is the time that the loaded model worked.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    cached: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        # not `asdict`: its deep copies take longer than the rest of a cached query
        return Usage(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Encodings:
    """Vectors in the order of their texts, float32, shape (texts, dimension), and their usage.

    `failures` maps the index of a text to the reason why it has no vector; its row in `vectors`
    has no meaning. `stopped` is the error that ended a call after some texts were encoded: their
    vectors are kept, and the remaining texts are in `failures`.
    """

    vectors: Vectors
    usage: Usage
    failures: Mapping[int, str] = field(default_factory=dict)
    stopped: Exception | None = None

    def raise_if_stopped(self) -> Encodings:
        """Return these encodings. Raises `stopped` where an error ended the call early."""
        if self.stopped:
            raise self.stopped
        return self


class EncodedBatch(NamedTuple):
    """Some texts of a stream, with their vectors.

    `places` are positions in the stream; each position is in exactly one batch. `encodings` has
    the vectors in the order of `places`. Its `failures` are keyed by the index into `places`, and
    its `usage` covers this batch. With an `error` the model failed on the whole batch:
    `encodings` is empty, and no text of the batch has a vector.
    """

    places: Sequence[int]
    encodings: Encodings
    error: Exception | None = None


class Encoder(Protocol):
    """A model that turns texts into vectors.

    Documents and queries have methods of their own, since some models prefix them differently.
    """

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model. Does not load the model."""

    @property
    def device(self) -> str:
        """The device that computes, like `cpu` or `cuda:0`, or the provider's host."""

    @property
    def token_count(self) -> TokenCount:
        """The token counter of the model. Does not load the model."""

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of texts that a search can find."""

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of texts that a search looks for."""


class StreamingEncoder(Encoder, Protocol):
    """An encoder that reads a stream of texts, as a run does."""

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Yield the vectors of documents batch by batch, in any order.

        One thread iterates `texts`, which may block; finished batches are yielded meanwhile. The
        number of texts read ahead and the number of finished batches are bounded, so the work
        pauses while the consumer takes no batch. The seconds of all batches add up to the wall
        time in which the model worked.

        Raises an error that ends the run (a rejected key, a model that cannot be loaded) and any
        error of `texts`, after the batches that the model had begun were yielded. Texts that were
        read ahead and not begun then have no batch.

        Close the generator to end early. Batches that were not begun are dropped; batches that
        were begun are waited for and dropped. A thread that stays blocked in `texts` for more than
        a second is abandoned and reads no further text.
        """


@runtime_checkable
class ImageQueryEncoder(Protocol):
    """An encoder that also takes an image as a query."""

    def encode_image(self, data: bytes) -> Encodings:
        """Return the vector of one encoded image file, shape (1, dimension), or its failure."""


@dataclass(frozen=True)
class TokenCount:
    """Counts the tokens of texts.

    `of` returns the number of tokens of each text, with the special tokens that the model adds and
    without truncation.
    Where `exact` is false, the model or its provider may count a little more or less.
    """

    of: Callable[[Sequence[str]], list[int]]
    exact: bool = True


# the pipeline's own tokenizer, which measures texts independently of the model
DEFAULT_TOKEN_COUNT = TokenCount(chunking.count_tokens)


# interval at which a waiting thread checks whether it should stop
_STEP_SECONDS = 0.5


class Stop(Event):
    """An event that is also set once `requested` returns true.

    A signal handler must not set an Event: the thread that it interrupts may hold the event's
    lock.
    """

    def __init__(self, requested: Callable[[], bool]) -> None:
        super().__init__()
        self._requested = requested

    def is_set(self) -> bool:
        """Whether the work should stop."""
        return super().is_set() or self._requested()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for the event. Returns whether the event is set."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left := until - time.monotonic()) > 0:
            super().wait(min(left, _STEP_SECONDS))
        return self.is_set()
