"""The encoder of a model that maps images and texts to one space, as CLIP does
(arxiv.org/abs/2103.00020)."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, TokenCount, Usage
from embeddings_pipeline.encoders.images.decoding import decode
from embeddings_pipeline.encoders.images.sources import ImageFiles
from embeddings_pipeline.encoders.local.description import Vision
from embeddings_pipeline.encoders.local.encoder import SentenceTransformersEncoder
from embeddings_pipeline.encoders.local.loaded_model import PreparedInput
from embeddings_pipeline.encoders.prefetch import capture_row_error
from embeddings_pipeline.encoders.stream import (
    BATCH_WAIT_SECONDS,
    Item,
    Stream,
    encode_batch,
    fill_batches,
)
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import RowError

if TYPE_CHECKING:
    from PIL.Image import Image

# decoding threads; one image takes up to 0.45 GB: see MAX_PIXELS
_THREADS = 4
# finished batches that wait for the consumer
_HELD = 16


class ImageEncoder:
    """Encodes images by URI as documents, and texts or the bytes of images as queries."""

    def __init__(
        self, model: SentenceTransformersEncoder, vision: Vision, images: ImageFiles
    ) -> None:
        self._model = model
        self._vision = vision
        self._images = images

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model. Does not load the model."""
        return self._model.identity

    @property
    def device(self) -> str:
        """The device of the model. Raises ConfigurationError for a device that is missing."""
        return self._model.device

    @property
    def token_count(self) -> TokenCount:
        """The token counter for text queries; images have no tokens."""
        return self._model.token_count

    def check(self) -> None:
        """Load the model. Raises ConfigurationError where the model or its device is missing."""
        self._model.check()

    def encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of the images at these URIs.

        An image that cannot be read or decoded is in `failures` and affects no other. Threads read
        and decode images while the model works on earlier ones.
        """
        vectors = np.zeros((len(texts), self.identity.dimension), np.float32)
        usage = Usage()
        failures: dict[int, str] = {}
        # all URIs are known, so each batch waits until it is full
        with closing(self._stream(texts, max_wait=None)) as batches:
            for places, made, error in batches:
                if error:
                    raise error
                vectors[places] = made.vectors
                failures |= {places[i]: why for i, why in made.failures.items()}
                usage += made.usage
        return Encodings(vectors, usage, failures)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """Yield the vectors of the images at a stream of URIs, batch by batch; see
        `StreamingEncoder.encode_stream`."""
        return self._stream(texts, max_wait=BATCH_WAIT_SECONDS)

    def encode_query(self, texts: Sequence[str]) -> Encodings:
        """Return the vectors of texts that search for images."""
        return self._model.encode_query(texts)

    def encode_image(self, data: bytes) -> Encodings:
        """Return the vector of one image that searches for images, shape (1, dimension)."""
        return self.encode_decoded(self.decoded(data))

    def decoded(self, data: bytes) -> Image | RowError:
        """Decode an image for `encode_decoded`, or return its error. Does not use the model."""
        return capture_row_error(self._decode)(data)

    def encode_decoded(self, image: Image | RowError) -> Encodings:
        """Return the vector of a decoded image, shape (1, dimension)."""
        self.check()
        started = time.monotonic()
        made = self._encode([image])
        return replace(made, usage=replace(made.usage, seconds=time.monotonic() - started))

    def _stream(
        self, texts: Iterable[str], max_wait: float | None
    ) -> Generator[EncodedBatch, None, None]:
        self.check()
        read = capture_row_error(self._read)
        capacity = self._model.batch_capacity(self._vision.tokens)
        stream = Stream(max_running=1, max_held=_HELD)
        with ThreadPoolExecutor(1) as pool, closing(stream):
            decoded = stream.stage(
                lambda uris: [Item(uri.place, read(uri.content)) for uri in uris],
                stream.read(texts, capacity=_THREADS),
                max_items=1,
                capacity=capacity,
                threads=_THREADS,
            )
            batches = fill_batches(decoded, max_texts=capacity, max_wait=max_wait)
            yield from stream.batches(batches, self._encode_batch, pool)

    def _encode_batch(self, batch: Sequence[Item[Image | RowError]]) -> list[EncodedBatch]:
        images = [item.content for item in batch]
        return [encode_batch([item.place for item in batch], lambda: self._encode(images))]

    def _encode(self, decoded: Sequence[Image | RowError]) -> Encodings:
        """Return the vectors of images that fit in one batch."""
        vectors = np.zeros((len(decoded), self.identity.dimension), np.float32)
        failures = {i: str(image) for i, image in enumerate(decoded) if isinstance(image, RowError)}
        good = {i: image for i, image in enumerate(decoded) if not isinstance(image, RowError)}
        if good:
            prepared = [PreparedInput(self._vision.tokens, image) for image in good.values()]
            vectors[[*good]] = self._model.encode_prepared(prepared)
        return Encodings(vectors, Usage(texts=len(good)), failures)

    def _read(self, uri: str) -> Image:
        return decode(self._images.read(uri), self._vision.size)

    def _decode(self, data: bytes) -> Image:
        return decode(self._images.within_limit(data), self._vision.size)
