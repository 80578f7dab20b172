"""Which entities and partitions a run is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.pipeline import Pipeline


def require_entities(pipeline: Pipeline, names: Sequence[str], everything: bool) -> None:
    """Raise ConfigurationError unless either entities are named or all are asked for."""
    if everything == bool(names):
        known = ", ".join(pipeline.declared.models)
        raise ConfigurationError(f"name entities ({known}) or give --all")


def one_selection(partitions: str | None) -> str | None:
    """The option --partitions, which takes one key or one range."""
    if partitions is not None and "," in partitions:
        raise ConfigurationError("--partitions takes one key or FIRST..LAST")
    return partitions
