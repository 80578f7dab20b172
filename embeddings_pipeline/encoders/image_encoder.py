"""Encodes images with a model that puts them and texts in one space, as CLIP does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from embeddings_pipeline.encoders.ahead import ahead, attempted
from embeddings_pipeline.encoders.base import Encodings, Usage
from embeddings_pipeline.encoders.image_files import ImageFiles
from embeddings_pipeline.encoders.loaded import Prepared
from embeddings_pipeline.encoders.model_files import Vision
from embeddings_pipeline.encoders.pixels import decode
from embeddings_pipeline.encoders.sentence_transformers import SentenceTransformersEncoder
from embeddings_pipeline.encoders.token_counts import TokenCount
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import RowError

if TYPE_CHECKING:
    from PIL.Image import Image

# decoding one takes up to 0.45 GB: see MAX_PIXELS
_THREADS = 4


class ImageEncoder:
    """Documents are images, given by their URIs; queries are texts, or images by their bytes."""

    def __init__(
        self, model: SentenceTransformersEncoder, vision: Vision, images: ImageFiles
    ) -> None:
        self._model = model
        self._vision = vision
        self._images = images

    @property
    def identity(self) -> ModelIdentity:
        """The model; known without loading it."""
        return self._model.identity

    @property
    def device(self) -> str:
        """Where it computes. Raises ConfigurationError for a device that is not there."""
        return self._model.device

    @property
    def token_count(self) -> TokenCount:
        """How many tokens it reads of a text that is a query; images have none."""
        return self._model.token_count

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where it or its device is not there."""
        self._model.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Vectors of the images behind these URIs; one that cannot be read or decoded fails alone.

        Images are read and decoded in threads while the model is at work on those before.
        """
        room = self._model.room(self._vision.tokens)
        with closing(ahead(attempted(self._read), texts, threads=_THREADS, depth=room)) as decoded:
            return self._encode(decoded, len(texts))

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Vectors of texts, to find images by."""
        return self._model.encode_query(texts)

    def encode_image(self, data: bytes) -> Encodings:
        """The vector of one image, to find others by."""
        return self.encode_decoded(self.decoded(data))

    def decoded(self, data: bytes) -> Image | RowError:
        """An image, or why it is none; what `encode_decoded` takes, without the model."""
        return attempted(self._decode)(data)

    def encode_decoded(self, image: Image | RowError) -> Encodings:
        """The vector of an image that was decoded before."""
        return self._encode([image], 1)

    def _encode(self, decoded: Iterable[Image | RowError], count: int) -> Encodings:
        self.check()
        started = time.monotonic()
        vectors = np.zeros((count, self.identity.dimension), np.float32)
        failures: dict[int, str] = {}
        good = _without_failures(decoded, failures)
        while batch := dict(islice(good, self._model.room(self._vision.tokens))):
            prepared = [Prepared(self._vision.tokens, image) for image in batch.values()]
            vectors[[*batch]] = self._model.encode_prepared(prepared)
        usage = Usage(texts=count - len(failures), seconds=time.monotonic() - started)
        return Encodings(vectors, usage, failures)

    def _read(self, uri: str) -> Image:
        return decode(self._images.read(uri), self._vision.size)

    def _decode(self, data: bytes) -> Image:
        return decode(self._images.within_limit(data), self._vision.size)


def _without_failures(
    decoded: Iterable[Image | RowError], failures: dict[int, str]
) -> Iterator[tuple[int, Image]]:
    for index, image in enumerate(decoded):
        if isinstance(image, RowError):
            failures[index] = str(image)
        else:
            yield index, image
