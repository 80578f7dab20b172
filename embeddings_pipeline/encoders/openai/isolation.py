"""Sends batches of texts, and finds the texts that the provider refuses.

The status of a refusal does not tell whether the provider or the texts are at fault, since a
gateway may refuse one text with the status of a bad key. A probe tells. Then the batch is divided
until each text at fault is alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np

from embeddings_pipeline.encoders.batching import batches_in_order
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, Stop, Usage
from embeddings_pipeline.encoders.openai.client import PROBE, Client, Refusal
from embeddings_pipeline.encoders.openai.responses import EmbeddingResponse
from embeddings_pipeline.encoders.openai.truncation import (
    estimate,
    truncate,
    truncate_to_reported_limit,
)
from embeddings_pipeline.encoders.stream import Item
from embeddings_pipeline.entities.model import Vector, Vectors
from embeddings_pipeline.errors import EmbeddingsError

# refused texts without an encoded one in between after which nothing more is sent
MAX_REFUSALS_IN_A_ROW = 25
# tokens billed for unusable answers while a batch is divided, as a multiple of its own: the halves
# with one text at fault take less than twice the batch
_MAX_WASTE = 3
# to compare with texts that have the same vector: no table is likely to have this one
_OTHER_TEXT = "a lighthouse in the winter of 1897"
# a message about the number of texts in a request names a number, and one about their size says so
_NUMBER_WORDS = re.compile(
    r"batch|input|item|array|text|at most|max|limit|exceed|fewer|less|up to", re.IGNORECASE
)
_SIZE_WORDS = re.compile(r"token|byte|payload|entity|body|size of|too large", re.IGNORECASE)


class RequestText(NamedTuple):
    """A text as it is sent; `truncated` says that only its beginning is sent."""

    text: str
    truncated: bool


def truncate_texts(texts: Sequence[Item[str]], max_tokens: int) -> list[Item[RequestText]]:
    """Count the tokens of texts, and cut texts of more than `max_tokens`."""
    return [
        Item(item.place, RequestText(text, before > max_tokens), tokens)
        for item, before in zip(texts, estimate([item.content for item in texts]), strict=True)
        for text, tokens in [truncate(item.content, before, max_tokens)]
    ]


class Session:
    """The state that all requests of a stream share: their parameters, what succeeded and what was
    refused, and the first error.

    Once `stopping` returns true, or a request fails, nothing more is sent and no request waits
    long.
    """

    def __init__(
        self,
        client: Client,
        *,
        dimension: int,
        shortened: bool,
        is_query: bool,
        stopping: Callable[[], bool],
    ) -> None:
        self.dimension = dimension
        self.learnt = client.learnt
        self._client = client
        self._shortened = shortened
        self._is_query = is_query
        self._stopped = Stop(stopping)
        self._error: BaseException | None = None
        self._succeeded_at = 0.0
        self._first: list[tuple[str, Vector]] = []
        self._refused_in_a_row = 0
        self._lock = Lock()

    def send(
        self, texts: Sequence[str], tokens: int, billed: Callable[[int], None]
    ) -> EmbeddingResponse:
        """Send texts; see `Client.send`. Raises EmbeddingsError once the session is stopped, and
        for a provider that does not tell texts apart."""
        answer = self._sent(texts, tokens, billed)
        made = _usable(texts, answer)
        with self._lock:
            before = self._first
            self._first = before or made[:1]
        if _have_one_vector(made) or _have_one_vector([*before, *made]):
            self._tell_apart(made, billed)
        return answer

    def _tell_apart(
        self, made: Sequence[tuple[str, Vector]], billed: Callable[[int], None]
    ) -> None:
        """Check that the provider has another vector for another text, in a request with one of
        these where they came together. Texts that differ only in what the model does not read, such
        as case, have the same vector.

        Raises EmbeddingsError where the vectors are the same, or the other text is refused.
        """
        text, _ = made[-1]
        texts = [_OTHER_TEXT] if len(made) == 1 else [text, _OTHER_TEXT]
        try:
            answer = self._sent(texts, sum(estimate(texts)), billed)
        except Refusal as refusal:
            raise refusal.error from None
        others = _usable(texts, answer)
        if _have_one_vector([*made, *others] if len(made) == 1 else others):
            raise EmbeddingsError(
                f"the provider answers different texts, {_OTHER_TEXT!r} and {text[:40]!r}, with the"
                " same vector: no vector of this answer was stored. If requests with one text get"
                " different vectors, set EMBEDDING_BATCH_SIZE=1"
            )

    def _sent(
        self, texts: Sequence[str], tokens: int, billed: Callable[[int], None]
    ) -> EmbeddingResponse:
        self.check()
        answer = self._client.send(
            texts,
            tokens=tokens,
            dimension=self.dimension,
            shortened=self._shortened,
            is_query=self._is_query,
            stopped=self._stopped,
            billed=billed,
        )
        with self._lock:
            self._succeeded_at = time.monotonic()
            if [*texts] != [PROBE]:
                self._refused_in_a_row = 0
        return answer

    def probe(self, since: float, billed: Callable[[int], None]) -> None:
        """Check that the provider encodes another text, unless it has done so since this time.

        Raises what the refusal of the probe means.
        """
        if self._succeeded_at < since:
            try:
                self.send([PROBE], 1, billed)
            except Refusal as refusal:
                raise refusal.error from None

    def refused(self, reason: str) -> None:
        """Note that a text was refused. Raises EmbeddingsError after many in a row."""
        with self._lock:
            self._refused_in_a_row += 1
            if self._refused_in_a_row >= MAX_REFUSALS_IN_A_ROW:
                raise EmbeddingsError(
                    f"{self._refused_in_a_row} texts in a row were refused, and the text {PROBE!r}"
                    f" was not ({reason}): nothing more is sent. Change the texts or the provider,"
                    " and run again"
                )

    def check(self) -> None:
        """Raise EmbeddingsError once the session is stopped."""
        if self._stopped.is_set():
            raise EmbeddingsError("stopped before all texts were sent: run again to continue")

    def close(self) -> None:
        """Stop the session and end the pauses between tries."""
        self._stopped.set()

    def failed(self, error: BaseException) -> BaseException:
        """Stop the session for an error. Returns the first error, the cause of later ones."""
        with self._lock:
            self._error = self._error or error
        self.close()
        return self._error


def send_batch(session: Session, batch: Sequence[Item[RequestText]]) -> Iterator[EncodedBatch]:
    """Send a batch and yield its vectors, also those that were billed before an error.

    Raises EmbeddingsError where the provider is at fault, and the error of another batch that
    failed first.
    """
    call = _Batch(session, batch)
    error = None
    try:
        call.take(sorted(call.unread))
    # vectors that were paid for are yielded before the error is raised
    except BaseException as raised:
        error = session.failed(raised)
    read = [i for i in range(len(batch)) if i not in call.unread]
    if read or call.tokens:
        yield EncodedBatch(
            [batch[i].place for i in read],
            Encodings(
                call.vectors[read],
                Usage(
                    texts=len(read) - len(call.failures),
                    tokens=call.tokens,
                    truncated=len(call.truncated.intersection(read)),
                ),
                {n: call.failures[i] for n, i in enumerate(read) if i in call.failures},
            ),
        )
    if error:
        raise error


def _usable(texts: Sequence[str], answer: EmbeddingResponse) -> list[tuple[str, Vector]]:
    return [
        (text, answer.vectors[place])
        for place, text in enumerate(texts)
        if place not in answer.unusable
    ]


def _have_one_vector(made: Sequence[tuple[str, Vector]]) -> bool:
    """Whether these are different texts, and their vectors are all the same."""
    return len({text for text, _ in made}) > 1 and all(
        np.array_equal(made[0][1], vector) for _, vector in made
    )


class _Batch:
    """The texts of a batch and their results. A text that has a vector is never sent again.

    `vectors` has the shape (texts, dimension); rows at the indexes in `failures` and `unread` have
    no meaning. `truncated` holds the indexes of texts that were cut. `tokens` were billed.
    """

    def __init__(self, session: Session, batch: Sequence[Item[RequestText]]) -> None:
        self._session = session
        self._texts = [item.content.text for item in batch]
        self._lengths = [item.tokens for item in batch]
        self._first_refused_at: float | None = None
        self._wasted = 0
        self._depth = 0
        self.vectors: Vectors = np.zeros((len(batch), session.dimension), np.float32)
        # OpenAI rejects a whole request for one empty text
        self.failures = {i: "the text is empty" for i, text in enumerate(self._texts) if not text}
        self.unread = {*range(len(batch))} - {*self.failures}
        self.truncated = {i for i, item in enumerate(batch) if item.content.truncated}
        self.tokens = 0

    def take(self, texts: Sequence[int]) -> None:
        """Send these texts, in requests of the size that the provider is known to accept."""
        left = [*texts]
        while left:
            # another thread may learn of a limit meanwhile
            learnt = self._session.learnt
            (count, *_) = map(
                len,
                batches_in_order(
                    [self._lengths[i] for i in left],
                    max_tokens=learnt.max_tokens or sum(self._lengths),
                    max_texts=learnt.max_texts or len(left),
                ),
            )
            self._send(left[:count])
            left = left[count:]

    def _send(self, texts: list[int], *, again: bool = False) -> None:
        sent_at = time.monotonic()
        tokens = sum(self._lengths[i] for i in texts)
        if self._wasted + tokens > _MAX_WASTE * sum(self._lengths) and self._wasted:
            raise EmbeddingsError(
                f"{self._wasted:,} tokens were billed for answers that cannot be used, to find the"
                " texts at fault: nothing more is sent"
            )
        try:
            answer = self._session.send([self._texts[i] for i in texts], tokens, self._bill)
        except Refusal as refusal:
            self._wasted += refusal.tokens
            self._divide(texts, refusal, sent_at, again=again)
            return
        self.vectors[texts] = answer.vectors
        bad = [texts[i] for i in answer.unusable]
        self.unread -= {*texts} - {*bad}
        self.take(bad)

    def _divide(self, texts: list[int], refusal: Refusal, sent_at: float, *, again: bool) -> None:
        """Find the texts at fault in a refused request, and cut those that are too long."""
        alone = len(texts) == 1
        shorter = truncate_to_reported_limit(self._texts[texts[0]], refusal.message)
        if alone and shorter is not None:
            (index,) = texts
            self._texts[index] = shorter
            (self._lengths[index],) = estimate([shorter])
            self.truncated.add(index)
            self.take(texts)
            return
        self._first_refused_at = self._first_refused_at or sent_at
        self._session.probe(sent_at if alone else self._first_refused_at, self._bill)
        if refusal.may_pass and not again and (alone or not refusal.tokens):
            # the provider may have been away until the probe; a batch that was billed is halved
            self._send(texts, again=True)
            return
        if alone:
            self.failures[texts[0]] = str(refusal)
            self.unread.discard(texts[0])
            self._session.refused(str(refusal))
            return
        size = _accepted_number(refusal.message, len(texts)) or -(-len(texts) // 2)
        pieces = [texts[start : start + size] for start in range(0, len(texts), size)]
        failures = len(self.failures)
        self._depth += 1
        for piece in pieces:
            self.take(piece)
        self._depth -= 1
        # no text was at fault, so the size was, where the provider said so or refused twice
        if len(self.failures) == failures and (refusal.message or self._depth):
            self._learn(pieces, refusal)

    def _learn(self, pieces: Sequence[Sequence[int]], refusal: Refusal) -> None:
        """Remember the size of requests that the provider accepts."""
        learnt = self._session.learnt
        if _SIZE_WORDS.search(refusal.message):
            tokens = max(sum(self._lengths[i] for i in piece) for piece in pieces)
            learnt.max_tokens = min(tokens, learnt.max_tokens or tokens)
        else:
            count = max(map(len, pieces))
            learnt.max_texts = min(count, learnt.max_texts or count)

    def _bill(self, tokens: int) -> None:
        self.tokens += tokens


def _accepted_number(message: str, refused: int) -> int | None:
    """Return the number of texts that a message about a request of `refused` texts allows."""
    if not _NUMBER_WORDS.search(message):
        return None
    numbers = [int(number) for number in re.findall(r"\b\d{1,5}\b", message)]
    return max((number for number in numbers if 0 < number < refused), default=None)
