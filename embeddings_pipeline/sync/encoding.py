"""Encodes the texts of a window, so that a bad one fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import psycopg

from embeddings_pipeline.encoders import image_files
from embeddings_pipeline.encoders.base import Encodings, Usage, Vector
from embeddings_pipeline.encoders.cached import CachedEncoder
from embeddings_pipeline.errors import EmbeddingsError, RowError
from embeddings_pipeline.store.pending import Pending
from embeddings_pipeline.store.vector_sets import VectorSet

# a text that every encoder can take: where it fails too, the fault is not in the rows
_PROBE_TEXT = "probe"

_OF_NONE = (
    "the model has no usable vector of any text ({}): no row was put in quarantine; mend the model,"
    " or declare another"
)

_LEFT = "what ended the run came before it"

Encode = Callable[[Sequence[str]], Encodings]
Made = list[Vector | RowError]


class EncodedTexts(NamedTuple):
    """A vector for each text, or why it has none, and what they took. `stopped` ended it: texts
    without a vector are then not to blame."""

    made: Made
    usage: Usage
    stopped: Exception | None = None


def encode_pending(encoder: CachedEncoder, window: Sequence[Pending]) -> EncodedTexts:
    """Vectors of texts that all differ; weighted parts are encoded apart, equal ones once."""
    texts = inputs(window)
    vectors, usage, stopped = encode_each(
        encoder.encode_documents,
        texts,
        # a cache would answer for a model that is gone
        probe=lambda: encoder.uncached.encode_documents([_PROBE_TEXT]),
    )
    made = dict(zip(texts, vectors, strict=True))
    means = [_mean([made[part] for part in p.inputs], p.weights) for p in window]
    return EncodedTexts(means, usage, stopped)


def inputs(window: Sequence[Pending]) -> list[str]:
    """What a model is given for a window, equal texts once."""
    return [*dict.fromkeys(text for p in window for text in p.inputs)]


def encode_images(encoder: CachedEncoder, window: Sequence[Pending]) -> EncodedTexts:
    """Vectors of images that all differ; one that is another by now has none."""
    uris = [image_files.pinned(p.text, p.text_hash) for p in window]
    return encode_each(
        encoder.encode_documents,
        uris,
        lambda: encoder.uncached.encode_documents([image_files.PROBE]),
    )


def storable(made: Made, vector_set: VectorSet) -> Made:
    """The same, but for vectors with a component that the set's storage cannot hold."""
    if vector_set.storage == "vector":
        return made
    most = float(np.finfo(np.float16).max)
    return [
        RowError(f"the vector has a component beyond {most:,.0f}, which no halfvec holds")
        if not isinstance(vector, RowError) and np.abs(vector).max() > most
        else vector
        for vector in made
    ]


def encode_each(
    encode: Encode, texts: Sequence[str], probe: Callable[[], Encodings]
) -> EncodedTexts:
    """A vector for each text, or why it has none; a failing batch is bisected.

    It is stopped where the encoder fails on everything, and so on the `probe`: by what that raised
    itself, or by an EmbeddingsError that says why its vectors are none. What the encoder raises
    that is of no row is raised.
    """
    try:
        done = encode(texts)
        if len(done.vectors) != len(texts):
            raise RowError(f"the encoder gave {len(done.vectors)} vectors for {len(texts)} texts")
    except EmbeddingsError as error:
        if not isinstance(error, RowError):
            raise
        return _bisect(encode, texts, probe, error)
    except psycopg.OperationalError:
        # of the database that keeps the limits of requests
        raise
    # an encoder may raise anything for a text that it cannot take
    except Exception as error:
        return _bisect(encode, texts, probe, error)
    made = _judged(done)
    if done.stopped:
        return EncodedTexts(made, done.usage, done.stopped)
    bad = [vector for vector in made if isinstance(vector, RowError)]
    # what a cache knows says nothing of the model
    if bad and len(made) - len(bad) <= done.usage.cached:
        fault = _fault(probe, EmbeddingsError(_OF_NONE.format(bad[0])))
        return EncodedTexts(made, done.usage, fault)
    return EncodedTexts(made, done.usage)


def _bisect(
    encode: Encode, texts: Sequence[str], probe: Callable[[], Encodings], error: Exception
) -> EncodedTexts:
    if len(texts) > 1:
        half = len(texts) // 2
        first = encode_each(encode, texts[:half], probe)
        if first.stopped:
            return first._replace(made=[*first.made, *[RowError(_LEFT)] * (len(texts) - half)])
        second = encode_each(encode, texts[half:], probe)
        return EncodedTexts([*first.made, *second.made], first.usage + second.usage, second.stopped)
    failed = RowError(f"{type(error).__name__}: {error}")
    return EncodedTexts([failed], Usage(), _fault(probe, error))


def _fault(probe: Callable[[], Encodings], error: Exception) -> Exception | None:
    """The error, where the probe has no vector either: then it is not of the rows."""
    try:
        (vector,) = _judged(probe().whole())
    except Exception:
        return error
    return error if isinstance(vector, RowError) else None


def _judged(done: Encodings) -> Made:
    return [
        RowError(done.failures[index]) if index in done.failures else _checked(vector)
        for index, vector in enumerate(done.vectors)
    ]


def _checked(vector: Vector) -> Vector | RowError:
    if not np.isfinite(vector).all():
        return RowError("the vector is not finite")
    if not vector.any():
        return RowError("the vector is zero")
    return vector


def _mean(parts: Sequence[Vector | RowError], weights: Sequence[float] | None) -> Vector | RowError:
    """The weighted mean of the parts, of unit length; a part that stands alone is left as it is."""
    good = []
    for part in parts:
        if isinstance(part, RowError):
            return part
        good.append(part)
    if weights is None:
        return good[0]
    mean = np.average(np.stack(good), axis=0, weights=weights)
    length = np.linalg.norm(mean)
    if not length:
        return RowError("the weighted parts cancel one another")
    return (mean / length).astype(np.float32)
