"""Which entities and partitions a run is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_pipeline.engine import Engine
from embeddings_pipeline.entities.partitions import select_keys
from embeddings_pipeline.errors import ConfigurationError


def entities_of(engine: Engine, names: Sequence[str], everything: bool) -> list[str]:
    """The named entities, or all where told. Raises ConfigurationError for neither and for both."""
    known = list(engine.entities)
    if everything == bool(names):
        raise ConfigurationError(f"name entities ({', '.join(known)}) or give --all")
    return known if everything else [engine.entity(name).name for name in names]


def keys_of(engine: Engine, names: Sequence[str], selection: str | None) -> list[str] | None:
    """The chosen partitions, which each of the entities must have; None for all of them."""
    if selection is None:
        return None
    if "," in selection:
        raise ConfigurationError("--partitions takes one key or FIRST..LAST")
    chosen: list[str] = []
    for name in names:
        try:
            chosen = select_keys(selection, engine.entity(name).partitions.keys())
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    return chosen
