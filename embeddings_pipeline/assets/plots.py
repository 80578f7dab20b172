"""A plot of an entity's vectors and a few of its texts, for the Dagster UI."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.store import coverage, vector_sets
from embeddings_pipeline.store.tables import open_tables

_VECTORS = 1_000
_TEXTS = 5
_COLOURS = 10
_SHOWN_CHARACTERS = 300


def of_changes(pipeline: Pipeline, entity: Entity, counts: Mapping[str, Any]) -> dict[str, Any]:
    """A plot and texts where vectors changed; nothing for an entity with `where`.

    Dagster's event log keeps texts also when a row is erased later. `where` may be a consent, and
    texts that need one must not be in the log.
    """
    if not (counts["encoded"] or counts["reused"]) or entity.where is not None:
        return {}
    names = pipeline.names_of(entity)
    with open_tables(pipeline.vectors, names) as tables:
        (newest, *_) = reversed(vector_sets.read(tables, ("live", "building")))
        vectors, labels = coverage.sample_vectors(tables, newest, _VECTORS)
        texts = coverage.sample_texts(tables, _TEXTS)
    title = next(iter(names.source.filters), "")
    lines = [f"- `{row_id}` {text[:_SHOWN_CHARACTERS]}" for row_id, text in texts]
    shown = {"texts": dg.MetadataValue.md("\n".join(lines))}
    if len(vectors) > 2:
        shown["plot"] = dg.MetadataValue.md(_markdown(_draw(_project(vectors), labels, title)))
    return shown


def _project(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, Any]:
    """The two principal components, shape (rows, 2)."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    projected: np.ndarray[Any, Any] = centred @ axes[:2].T
    return projected


def _draw(points: np.ndarray[Any, Any], labels: Sequence[str], title: str) -> bytes:
    """A scatter plot as PNG; the most frequent labels have colours of their own."""
    # takes half a second to import
    from matplotlib.figure import Figure

    names, counts = np.unique(np.array(labels), return_counts=True)
    frequent = list(names[np.argsort(-counts)][: _COLOURS - 1])
    figure = Figure(figsize=(6, 4), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    others = np.array([label not in frequent for label in labels])
    axes.scatter(points[others, 0], points[others, 1], s=8, color="lightgrey", label="others")
    for name in frequent:
        labelled = np.array([label == name for label in labels])
        shown = str(name)[:24] or "(none)"
        axes.scatter(points[labelled, 0], points[labelled, 1], s=8, label=shown)
    axes.set(xticks=[], yticks=[])
    if title:
        axes.legend(title=title, loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _markdown(png: bytes) -> str:
    return f"![vectors](data:image/png;base64,{base64.b64encode(png).decode()})"
