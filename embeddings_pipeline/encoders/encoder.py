"""What every encoder is: a model with an identity, that turns texts into vectors, counts their
tokens and can be stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import add
from pathlib import Path
from threading import Event
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.model import ModelIdentity, Vectors

Kind: TypeAlias = Literal["document", "query"]


@dataclass(frozen=True)
class Usage:
    """What some texts took, in the same terms from every encoder; it adds up.

    `texts` went through the model, which read so many `tokens`, as it or its provider counts
    them; of these texts `truncated` had more than it reads. `cached` texts were spared the model,
    and with them `saved_tokens`. `seconds` are those of the loaded model at work.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    cached: int = 0
    saved_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        # not by `asdict`: its deep copies take longer than a cached query otherwise does
        return Usage(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Encodings:
    """Vectors in the order of their texts, shape (texts, dimension), and what they took.

    `failures` says of the texts at these indexes why they have none; their vectors mean nothing.
    `stopped` is what ended the call before all texts were read, where some were: what was made of
    them is kept, and the others are among the failures.
    """

    vectors: Vectors
    usage: Usage
    failures: Mapping[int, str] = field(default_factory=dict)
    stopped: Exception | None = None

    def whole(self) -> Encodings:
        """Itself. Raises what ended the call before all texts were read, if something did."""
        if self.stopped:
            raise self.stopped
        return self


class EncodedBatch(NamedTuple):
    """Some texts of a stream, with their vectors.

    `places` are positions in the stream, each given out once in some batch. `encodings` has the
    vectors in the order of `places`; its `failures` are by index into `places`, and its `usage` is
    of this batch. With an `error` the model failed on the batch as a whole: `encodings` is empty,
    and none of the texts has a vector.
    """

    places: Sequence[int]
    encodings: Encodings
    error: Exception | None = None


class Encoder(Protocol):
    """Documents and queries are encoded apart: some models prefix them differently."""

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""

    @property
    def device(self) -> str:
        """Where it computes, like cpu or cuda:0."""

    @property
    def token_count(self) -> TokenCount:
        """How many tokens it reads of a text; known without loading it."""

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts that are to be found."""

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts to find others by."""


class StreamingEncoder(Encoder, Protocol):
    """An encoder that a run can feed."""

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Vectors of documents, batch by batch, in any order; each place is given out once.

        One thread iterates `texts`, which may block; batches that are done come out meanwhile.
        A bounded number of texts is read ahead and a bounded number of batches is held, so that
        nothing goes on while nobody asks for the next batch. The seconds of all batches add up to
        the wall time in which the model was at work.

        Raises what ends the run (a key that is refused, a model that cannot be loaded) and what
        `texts` raises, once the batches that the model had begun were given out. Texts that were
        read ahead but not begun have no batch then.

        Close it to end early: batches that were not begun are left out, those that were begun are
        waited for, but not given out. A thread that is blocked in `texts` for longer than a second
        is left behind, and reads no further text.
        """


@runtime_checkable
class Seeing(Protocol):
    """What an encoder is, too, where documents can be found by an image."""

    def encode_image(self, data: bytes) -> Encodings:
        """The vector of one image, given by its bytes; `failures` says why it has none."""


@dataclass(frozen=True)
class TokenCount:
    """`of` gives the tokens of each text, special ones included, nothing truncated.

    Where it is not `exact`, the model or its provider may count a little more or less.
    """

    of: Callable[[Sequence[str]], list[int]]
    exact: bool = True


# as texts are measured wherever no model has a say
FIXED = TokenCount(chunking.count_tokens)


@lru_cache
def token_count(folder: Path) -> TokenCount:
    """That of the sentence-transformers model in a folder, by its tokenizer.json; without one,
    texts are measured as for all."""
    modules = folder / "modules.json"
    parts = json.loads(modules.read_text()) if modules.is_file() else [{"path": ""}]
    tokenizer = folder / str(parts[0]["path"]) / "tokenizer.json"
    if not tokenizer.is_file():
        return TokenCount(chunking.count_tokens, exact=False)
    if tokenizer.read_bytes() == chunking.TOKENIZER.read_bytes():
        return FIXED
    from tokenizers import Tokenizer

    try:
        own: Tokenizer = Tokenizer.from_file(str(tokenizer))
    # the library raises no kind of its own; whoever loads the model says what is wrong, if it is
    except Exception:
        return TokenCount(chunking.count_tokens, exact=False)
    own.no_truncation()
    own.no_padding()
    return TokenCount(lambda texts: [len(e.ids) for e in own.encode_batch_fast(list(texts))])


# how often whoever waits looks whether it should stop
_STEP_SECONDS = 0.5


class Stop(Event):
    """Set once it is set, or once `asked` says so. A handler of signals may set no event itself:
    the thread that it interrupts may hold the event's lock."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        super().__init__()
        self._asked = asked

    def is_set(self) -> bool:
        """Whether to stop."""
        return super().is_set() or self._asked()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait so many seconds, or until it is set; whether it is."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left := until - time.monotonic()) > 0:
            super().wait(min(left, _STEP_SECONDS))
        return self.is_set()
