"""One request of a remote encoder, and those that it takes to find what is wrong with its texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np

from embeddings_pipeline.encoders.base import EncodedBatch, Encodings, Usage, Vectors
from embeddings_pipeline.encoders.openai_answers import Answer
from embeddings_pipeline.encoders.openai_errors import Exhausted, Refused
from embeddings_pipeline.encoders.openai_lengths import cut, cut_as_told, estimate
from embeddings_pipeline.encoders.openai_requests import PROBE, Requests
from embeddings_pipeline.encoders.stop import Stop
from embeddings_pipeline.encoders.streams import Item
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

_TRIES_FOR_FINITE = 3


class Fitted(NamedTuple):
    """A text as it is sent; `truncated` where it is only the beginning."""

    text: str
    truncated: bool


def fitted(texts: Sequence[Item[str]], max_tokens: int) -> list[Item[Fitted]]:
    """The texts with their tokens; of one that has too many the beginning."""
    return [
        Item(item.place, Fitted(text, before > max_tokens), tokens)
        for item, before in zip(texts, estimate([item.content for item in texts]), strict=True)
        for text, tokens in [cut(item.content, before, max_tokens)]
    ]


class Session:
    """What all requests of a stream share: what they ask for, and what ended them.

    Once it is `stopping`, or one of them ended it, nothing more is sent and none waits long.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        dimension: int,
        shortened: bool,
        stopping: Callable[[], bool],
    ) -> None:
        self.dimension = dimension
        self._requests = requests
        self._shortened = shortened
        self._stopped = Stop(stopping)
        self._error: BaseException | None = None
        self._lock = Lock()
        self._probing = Lock()
        self._probed = False

    def send(
        self, texts: Sequence[str], tokens: int, billed: Callable[[int], None], *, brief: bool
    ) -> Answer:
        """See `Requests.send`. Raises EmbeddingsError once it is stopped."""
        self.check()
        return self._requests.send(
            texts,
            tokens=tokens,
            dimension=self.dimension,
            shortened=self._shortened,
            brief=brief,
            stopped=self._stopped,
            billed=billed,
        )

    def probe(self, billed: Callable[[int], None]) -> None:
        """Once, make sure that the provider takes any text. Raises ConfigurationError where it
        refuses that too."""
        with self._probing:
            if self._probed:
                return
            try:
                self.send([PROBE], 1, billed, brief=False)
            except Refused as refusal:
                raise ConfigurationError(f"not even {PROBE!r} can be encoded: {refusal}") from None
            self._probed = True

    def check(self) -> None:
        """Raise EmbeddingsError once it is stopped."""
        if self.stopped:
            raise EmbeddingsError("stopped before all texts were sent; run again to go on")

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return self._stopped.is_set()

    def close(self) -> None:
        """Stop it: whoever waits to try again need not."""
        self._stopped.set()

    def failed(self, error: BaseException) -> BaseException:
        """Stop it for an error. Returns the first one: what others raise after it is that they
        were stopped."""
        with self._lock:
            self._error = self._error or error
        self.close()
        return self._error


def answered(session: Session, batch: Sequence[Item[Fitted]]) -> Iterator[EncodedBatch]:
    """What became of a batch; if an error ended it, what was answered and billed before.

    Raises what `Requests.send` raises but Refused, and ConfigurationError where any text is
    refused; or what another batch raised before.
    """
    call = _Call(session, batch)
    error = None
    try:
        call.run()
    # what is paid for is given out before it
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


class _Call:
    """The texts of a batch and what became of them. What has a vector is never sent again.

    `vectors` have the shape (texts, dimension) and mean nothing at the indexes in `failures`, and
    in `unread`; `truncated` are the indexes of texts that were cut, `tokens` what was billed.
    """

    def __init__(self, session: Session, batch: Sequence[Item[Fitted]]) -> None:
        self._session = session
        self._texts = [item.content.text for item in batch]
        self._lengths = [item.tokens for item in batch]
        self.vectors: Vectors = np.zeros((len(batch), session.dimension), np.float32)
        # OpenAI refuses an empty text, and with it all others of its request
        self.failures = {i: "the text is empty" for i, text in enumerate(self._texts) if not text}
        self.unread = {*range(len(batch))} - {*self.failures}
        self.truncated = {i for i, item in enumerate(batch) if item.content.truncated}
        self.tokens = 0

    def run(self) -> None:
        """Send all texts."""
        if self.unread:
            self._take(sorted(self.unread))

    def _take(
        self, batch: list[int], tries: int = _TRIES_FOR_FINITE, *, brief: bool = False
    ) -> None:
        try:
            answer = self._send(
                [self._texts[i] for i in batch], sum(self._lengths[i] for i in batch), brief=brief
            )
        except Refused as refusal:
            self._divide(batch, refusal, brief=brief)
            return
        except Exhausted as error:
            self._isolate(batch, error)
            return
        finite = [bool(np.isfinite(vector).all()) for vector in answer.vectors]
        self.vectors[batch] = answer.vectors
        left = [i for i, is_finite in zip(batch, finite, strict=True) if not is_finite]
        self.unread -= {*batch} - {*left}
        if left and tries > 1:
            self._take(left, tries - 1, brief=brief)
        elif left:
            self._fail(left, f"the provider's vector is not finite, {_TRIES_FOR_FINITE} times")

    def _send(self, texts: Sequence[str], tokens: int, *, brief: bool = False) -> Answer:
        return self._session.send(texts, tokens, self._bill, brief=brief)

    def _bill(self, tokens: int) -> None:
        self.tokens += tokens

    def _isolate(self, batch: list[int], error: Exhausted) -> None:
        """Find the texts that the provider stumbles over though it takes others.

        Each time it is asked anew whether it does: it may have gone away in between.
        """
        if self._session.stopped or not error.last.by_texts:
            raise error
        try:
            self._send([PROBE], 1, brief=True)
        except (Exhausted, Refused):
            raise error from None
        if len(batch) == 1:
            self._fail(batch, f"the provider takes other texts, but not this one ({error.last})")
            return
        half = len(batch) // 2
        self._take(batch[:half], brief=True)
        self._take(batch[half:], brief=True)

    def _divide(self, batch: list[int], refusal: Refused, *, brief: bool) -> None:
        """Find the texts that are refused, and cut those that are only too long."""
        self._session.probe(self._bill)
        if len(batch) > 1:
            half = len(batch) // 2
            self._take(batch[:half], brief=brief)
            self._take(batch[half:], brief=brief)
            return
        (index,) = batch
        shorter = cut_as_told(self._texts[index], refusal.in_full)
        if shorter is None:
            self._fail(batch, str(refusal))
            return
        self._texts[index] = shorter
        self._lengths[index] = estimate([shorter])[0]
        self.truncated.add(index)
        self._take(batch, brief=brief)

    def _fail(self, batch: Sequence[int], reason: str) -> None:
        self.failures |= dict.fromkeys(batch, reason)
        self.unread -= {*batch}
