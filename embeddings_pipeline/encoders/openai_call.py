"""One call of a remote encoder: many texts, in several requests at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from embeddings_pipeline.encoders.base import Vectors
from embeddings_pipeline.encoders.batching import in_order
from embeddings_pipeline.encoders.openai_answers import Answer
from embeddings_pipeline.encoders.openai_errors import Exhausted, Refused
from embeddings_pipeline.encoders.openai_lengths import cut, cut_as_told, estimate
from embeddings_pipeline.encoders.openai_requests import PROBE, Requests
from embeddings_pipeline.encoders.stop import Stop
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError

# smaller requests than this are not worth sending side by side
_LEAST_BATCH_TOKENS = 8_000
_TRIES_FOR_FINITE = 3


class Call:
    """The texts of a call and what became of them. What has a vector is never sent again.

    `vectors` have the shape (texts, dimension) and mean nothing at the indexes in `failures`;
    `truncated` are the indexes of texts that were cut, `tokens` what the provider billed. `error`
    is what ended the call; the texts that it left are among the failures.
    """

    def __init__(
        self,
        requests: Requests,
        texts: Sequence[str],
        *,
        dimension: int,
        shortened: bool,
        max_tokens: int,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.vectors: Vectors = np.zeros((len(texts), dimension), np.float32)
        # OpenAI refuses an empty text, and with it all others of its request
        self.failures = {i: "the text is empty" for i, text in enumerate(texts) if not text}
        self.tokens = 0
        self._requests = requests
        self._dimension = dimension
        self._shortened = shortened
        self._lock = Lock()
        self._probing = Lock()
        self._probed = False
        self._stopped = Stop(stopping)
        self.error: Exception | None = None
        self._unread = {*range(len(texts))} - {*self.failures}
        lengths = estimate(texts)
        self.truncated = {i for i, tokens in enumerate(lengths) if tokens > max_tokens}
        fitting = [cut(t, n, max_tokens) for t, n in zip(texts, lengths, strict=True)]
        self._texts = [text for text, _ in fitting]
        self._lengths = [tokens for _, tokens in fitting]

    def run(self, *, batch_texts: int, batch_tokens: int, in_flight: int) -> None:
        """Send all texts. Raises what `Requests.send` raises but Refused, and ConfigurationError
        where any text is refused; but where anything was billed by then, it is kept as `error`."""
        left = sorted(self._unread)
        if not left:
            return
        lengths = [self._lengths[i] for i in left]
        share = max(_LEAST_BATCH_TOKENS, -(-sum(lengths) // in_flight))
        batches = in_order(lengths, max_tokens=min(batch_tokens, share), max_texts=batch_texts)
        with ThreadPoolExecutor(min(in_flight, len(batches))) as pool:
            try:
                [*pool.map(self._work, ([left[n] for n in batch] for batch in batches))]
            finally:
                # whoever waits to try again need not
                self._stopped.set()
        if self.error and not self.tokens and self._unread == {*left}:
            raise self.error
        if self.error:
            self.failures |= dict.fromkeys(self._unread, str(self.error))

    def _work(self, batch: list[int]) -> None:
        if self.error:
            return
        try:
            self._take(batch)
        except Exception as error:
            with self._lock:
                # what others raise after it is that they were stopped
                self.error = self.error or error
            self._stopped.set()

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
        with self._lock:
            self._unread -= {*batch} - {*left}
        if left and tries > 1:
            self._take(left, tries - 1, brief=brief)
        elif left:
            self._fail(left, f"the provider's vector is not finite, {_TRIES_FOR_FINITE} times")

    def _send(self, texts: Sequence[str], tokens: int, *, brief: bool = False) -> Answer:
        if self._stopped.is_set():
            raise EmbeddingsError("stopped before all texts were sent; run again to go on")
        return self._requests.send(
            texts,
            tokens=tokens,
            dimension=self._dimension,
            shortened=self._shortened,
            brief=brief,
            stopped=self._stopped,
            billed=self._bill,
        )

    def _bill(self, tokens: int) -> None:
        with self._lock:
            self.tokens += tokens

    def _isolate(self, batch: list[int], error: Exhausted) -> None:
        """Find the texts that the provider stumbles over though it takes others.

        Each time it is asked anew whether it does: it may have gone away in between.
        """
        if self._stopped.is_set() or not error.last.by_texts:
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
        self._probe()
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
        with self._lock:
            self.truncated.add(index)
        self._take(batch, brief=brief)

    def _probe(self) -> None:
        """Once a call, make sure that the fault is in the texts."""
        with self._probing:
            if self._probed:
                return
            try:
                self._send([PROBE], 1)
            except Refused as refusal:
                raise ConfigurationError(f"not even {PROBE!r} can be encoded: {refusal}") from None
            self._probed = True

    def _fail(self, batch: Sequence[int], reason: str) -> None:
        with self._lock:
            self.failures |= dict.fromkeys(batch, reason)
            self._unread -= {*batch}
