"""A plot of an entity's vectors and a few of its texts, for the Dagster UI."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.pipeline import Pipeline
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.retry import read_again
from embeddings_pipeline.store.tables import open_tables
from embeddings_pipeline.store.vectors import coverage

_VECTORS = 1_000
_TEXTS = 5
_COLOURS = 10
_SHOWN_CHARACTERS = 300

_Floats = np.ndarray[Any, np.dtype[np.float32]]


@read_again
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
    label = next(iter(names.source.filters), None)
    lines = [f"- `{row_id}` {text[:_SHOWN_CHARACTERS]}" for row_id, text in texts]
    shown = {"texts": dg.MetadataValue.md("\n".join(lines))}
    if len(vectors) > 2:
        points, variance = _project(vectors)
        title = f"{entity.name}: {len(vectors):,} vectors of set {newest.number}"
        png = _draw(points, labels, title=title, label=label, variance=variance)
        caption = (
            f"{title} ({newest.model}, {newest.dimension} dimensions), each a point. The two"
            f" principal components show {variance.sum():.0%} of the variance."
        )
        if label:
            caption += f" The colour is the `{label}` of the row."
        shown["plot"] = dg.MetadataValue.md(_markdown(png, caption))
    return shown


def _project(vectors: _Floats) -> tuple[_Floats, _Floats]:
    """The two principal components, shape (rows, 2), and the share of the variance of each."""
    centred = vectors - vectors.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / max(float((singular**2).sum()), np.finfo(np.float32).tiny)
    return centred @ axes[:2].T, variance[:2]


def _draw(
    points: _Floats, labels: Sequence[str], *, title: str, label: str | None, variance: _Floats
) -> bytes:
    """A scatter plot as PNG; the most frequent labels have colours of their own."""
    # takes half a second to import
    from matplotlib.figure import Figure

    names, counts = np.unique(np.array(labels), return_counts=True)
    frequent = list(names[np.argsort(-counts)][: _COLOURS - 1])
    figure = Figure(figsize=(7, 4.2), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    others = np.array([value not in frequent for value in labels])
    if others.any():
        axes.scatter(points[others, 0], points[others, 1], s=8, color="lightgrey", label="others")
    for name in frequent:
        labelled = np.array([value == name for value in labels])
        shown = str(name)[:24] or "(none)"
        axes.scatter(points[labelled, 0], points[labelled, 1], s=8, label=shown)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(f"principal component 1 ({variance[0]:.0%} of the variance)")
    axes.set_ylabel(f"principal component 2 ({variance[1]:.0%})")
    axes.tick_params(labelsize="x-small")
    if label:
        axes.legend(title=label, loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _markdown(png: bytes, caption: str) -> str:
    return f"![vectors](data:image/png;base64,{base64.b64encode(png).decode()})\n\n*{caption}*"
