"""Which entities and partitions a run is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_pipeline.engine import Engine
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import select_keys
from embeddings_pipeline.errors import ConfigurationError, Failures


def entities_of(
    engine: Engine, names: Sequence[str], everything: bool
) -> tuple[list[Entity], Failures]:
    """The named entities, or all where told, and those of them that are declared wrongly.

    Raises ConfigurationError for neither and for both.
    """
    if everything == bool(names):
        known = ", ".join(engine.declared.models)
        raise ConfigurationError(f"name entities ({known}) or give --all")
    return engine.chosen(names)


def keys_of(entities: Sequence[Entity], selection: str | None) -> list[str] | None:
    """The chosen partitions, which each of the entities must have; None for all of them."""
    if selection is None:
        return None
    if "," in selection:
        raise ConfigurationError("--partitions takes one key or FIRST..LAST")
    chosen: list[str] = []
    for entity in entities:
        try:
            chosen = select_keys(selection, entity.partitions.keys())
        except ConfigurationError as error:
            raise ConfigurationError(f"{entity.name}: {error}") from None
    return chosen
