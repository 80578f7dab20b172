"""Tells a text that a model cannot take from a model that takes none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import psycopg

from embeddings_pipeline.encoders.base import Encodings, Usage, Vector
from embeddings_pipeline.errors import EmbeddingsError, RowError
from embeddings_pipeline.store.vectors.cache import MAX_COMPONENT

# a text that every encoder can take: where it fails too, the fault is not in the rows
PROBE_TEXT = "probe"

_OF_NONE = (
    "the model has no usable vector of any text ({}): no text was put in quarantine; mend the"
    " model, or declare another"
)

Encode = Callable[[Sequence[str]], Encodings]
Outcome = Vector | RowError


def isolated(
    encode: Encode, texts: Sequence[str], probe: Sequence[str], error: Exception
) -> tuple[list[Outcome], Usage]:
    """A vector for each of the texts on which the model raised the error together, or why it has
    none: they are asked for again in halves, until the texts at fault stand alone.

    Raises the error where the model fails on the probe too.
    """
    if len(texts) == 1:
        refuse_broken_model(encode, probe, error)
        return [RowError(f"{type(error).__name__}: {error}")], Usage()
    outcomes: list[Outcome] = []
    usage = Usage()
    half = len(texts) // 2
    for part in (texts[:half], texts[half:]):
        made, used = _encoded(encode, part, probe)
        outcomes += made
        usage += used
    return outcomes, usage


def _encoded(
    encode: Encode, texts: Sequence[str], probe: Sequence[str]
) -> tuple[list[Outcome], Usage]:
    try:
        done = encode(texts).whole()
        if len(done.vectors) != len(texts):
            raise RowError(f"the encoder gave {len(done.vectors)} vectors for {len(texts)} texts")
    except EmbeddingsError as error:
        if not isinstance(error, RowError):
            raise
        return isolated(encode, texts, probe, error)
    except psycopg.OperationalError:
        # of the database that keeps the limits of requests
        raise
    # an encoder may raise anything for a text that it cannot take
    except Exception as error:
        return isolated(encode, texts, probe, error)
    return checked(done), done.usage


def refuse_broken_model(encode: Encode, probe: Sequence[str], error: Exception) -> None:
    """Raise the error where the model has no usable vector of the probe, either: then it is not
    of the texts."""
    try:
        (outcome,) = checked(encode(probe).whole())
    except Exception:
        raise error from None
    if isinstance(outcome, RowError):
        raise error


def none_usable(outcomes: Sequence[Outcome]) -> EmbeddingsError | None:
    """The error of a model none of whose vectors is usable; None where one is."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, RowError)]
    if not outcomes or len(failed) < len(outcomes):
        return None
    return EmbeddingsError(_OF_NONE.format(failed[0]))


def checked(done: Encodings) -> list[Outcome]:
    """The vectors, or why a text has no usable one."""
    vectors = done.vectors
    largest = np.abs(vectors).max(axis=1, initial=0.0) if len(vectors) else np.empty(0)
    odd = {*np.flatnonzero(~(np.isfinite(largest) & (largest > 0) & (largest <= MAX_COMPONENT)))}
    return [
        RowError(done.failures[index])
        if index in done.failures
        else _reason(vector)
        if index in odd
        else vector
        for index, vector in enumerate(vectors)
    ]


def _reason(vector: Vector) -> RowError:
    if not np.isfinite(vector).all():
        return RowError("the vector is not finite")
    if not vector.any():
        return RowError("the vector is zero")
    return RowError(
        f"the vector has a component beyond {MAX_COMPONENT:,.0f}, which no halfvec holds"
    )
