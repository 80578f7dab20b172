"""Encodes images with a model that puts them and texts in one space, as CLIP does."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embeddings_pipeline.encoders.batching import PATIENCE_SECONDS, Item, Stream, as_filled, encoded
from embeddings_pipeline.encoders.encoder import EncodedBatch, Encodings, TokenCount, Usage
from embeddings_pipeline.encoders.images.decoding import decode
from embeddings_pipeline.encoders.images.sources import ImageFiles
from embeddings_pipeline.encoders.local.encoder import SentenceTransformersEncoder
from embeddings_pipeline.encoders.local.loaded_model import Prepared
from embeddings_pipeline.encoders.local.model_files import Vision
from embeddings_pipeline.encoders.prefetch import attempted
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import RowError

if TYPE_CHECKING:
    from PIL.Image import Image

# decoding one takes up to 0.45 GB: see MAX_PIXELS
_THREADS = 4
# batches of vectors that wait for the consumer
_HELD = 16


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
        vectors = np.zeros((len(texts), self.identity.dimension), np.float32)
        usage = Usage()
        failures: dict[int, str] = {}
        # all texts are there: each batch is filled, however long an image takes
        with closing(self._stream(texts, patience=None)) as batches:
            for places, made, error in batches:
                if error:
                    raise error
                vectors[places] = made.vectors
                failures |= {places[i]: why for i, why in made.failures.items()}
                usage += made.usage
        return Encodings(vectors, usage, failures)

    def encode_stream(self, texts: Iterable[str]) -> Generator[EncodedBatch, None, None]:
        """The same of a stream of URIs, batch by batch; see `Encoder.encode_stream`."""
        return self._stream(texts, patience=PATIENCE_SECONDS)

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
        self.check()
        started = time.monotonic()
        made = self._encode([image])
        return replace(made, usage=replace(made.usage, seconds=time.monotonic() - started))

    def _stream(
        self, texts: Iterable[str], patience: float | None
    ) -> Generator[EncodedBatch, None, None]:
        self.check()
        read = attempted(self._read)
        room = self._model.room(self._vision.tokens)
        stream = Stream(running=1, held=_HELD)
        with ThreadPoolExecutor(1) as pool, closing(stream):
            decoded = stream.stage(
                lambda uris: [Item(uri.place, read(uri.content)) for uri in uris],
                stream.read(texts, room=_THREADS),
                most=1,
                room=room,
                threads=_THREADS,
            )
            batches = as_filled(decoded, max_texts=room, patience=patience)
            yield from stream.batches(batches, self._encode_batch, pool)

    def _encode_batch(self, batch: Sequence[Item[Image | RowError]]) -> list[EncodedBatch]:
        images = [item.content for item in batch]
        return [encoded([item.place for item in batch], lambda: self._encode(images))]

    def _encode(self, decoded: Sequence[Image | RowError]) -> Encodings:
        """Vectors of images that make at most one batch."""
        vectors = np.zeros((len(decoded), self.identity.dimension), np.float32)
        failures = {i: str(image) for i, image in enumerate(decoded) if isinstance(image, RowError)}
        good = {i: image for i, image in enumerate(decoded) if not isinstance(image, RowError)}
        if good:
            prepared = [Prepared(self._vision.tokens, image) for image in good.values()]
            vectors[[*good]] = self._model.encode_prepared(prepared)
        return Encodings(vectors, Usage(texts=len(good)), failures)

    def _read(self, uri: str) -> Image:
        return decode(self._images.read(uri), self._vision.size)

    def _decode(self, data: bytes) -> Image:
        return decode(self._images.within_limit(data), self._vision.size)
