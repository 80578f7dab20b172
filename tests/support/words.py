"""An encoder that knows nothing but words, fast enough for tests and able to fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from embeddings_pipeline.encoders.encoder import DEFAULT_TOKEN_COUNT, EncodedBatch, Encodings, Usage
from embeddings_pipeline.entities.chunking import count_tokens
from embeddings_pipeline.entities.model import ModelIdentity, Vector
from tests.support.streaming import stream_in_batches

WORDS = ModelIdentity("fake", "fake/words", "r1", 64, 256, True)


def refuses(*words: str) -> Callable[[Sequence[str]], None]:
    """A model's answer to a batch that has a text with one of these words."""

    def refuse(texts: Sequence[str]) -> None:
        if any(word in text for text in texts for word in words):
            raise ValueError("cannot take this")

    return refuse


class WordsEncoder:
    """A direction for each word, summed: texts are near that share words.

    `before` is called with each batch while "the model runs", and may raise; a stream has batches
    of `batch_texts`.
    """

    batch_texts = 1_000

    def __init__(
        self,
        identity: ModelIdentity = WORDS,
        before: Callable[[Sequence[str]], None] = lambda texts: None,
    ) -> None:
        self.identity = identity
        self.device = "cpu"
        self.token_count = DEFAULT_TOKEN_COUNT
        self.before = before
        self.encoded: list[str] = []

    def revised(self, revision: str) -> WordsEncoder:
        return WordsEncoder(replace(self.identity, revision=revision))

    def check(self) -> None:
        pass

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        self.before(texts)
        self.encoded += texts
        return self.encode_query(texts)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        return stream_in_batches(self.encode_documents, texts, self.batch_texts)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        lengths = count_tokens(texts)
        return Encodings(
            np.stack([self._vector(text) for text in texts]),
            Usage(
                texts=len(texts),
                tokens=sum(min(n, self.identity.max_tokens) for n in lengths),
                truncated=sum(n > self.identity.max_tokens for n in lengths),
            ),
        )

    def _vector(self, text: str) -> Vector:
        words = re.findall(r"\w+", text.lower())
        # a little of the whole text, so that no two texts are equally far from a third
        vector = 0.2 * self._direction(text) + sum(self._direction(word) for word in words)
        length = np.linalg.norm(vector)
        return np.asarray(vector / length, np.float32)

    def _direction(self, word: str) -> Vector:
        # a model of another revision gives other vectors
        seed = sha256(f"{self.identity.revision}/{word}".encode()).digest()[:8]
        random = np.random.default_rng(int.from_bytes(seed))
        vector = random.standard_normal(self.identity.dimension)
        unit: Vector = vector / np.linalg.norm(vector)
        return unit
