"""Keeps pgvector in step with a data team's dbt models.

    from embeddings_pipeline import Pipeline

Importing this package loads nothing else; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddings_pipeline.assets.factory import build_embedding_defs
    from embeddings_pipeline.component import EmbeddingsComponent
    from embeddings_pipeline.entities.entity import Entity
    from embeddings_pipeline.errors import (
        Busy,
        ConfigurationError,
        CostLimitReached,
        DeletesRefused,
        EmbeddingsError,
        Interrupted,
        NotFound,
        RunNeeded,
        Unavailable,
    )
    from embeddings_pipeline.pipeline import Pipeline
    from embeddings_pipeline.search.searcher import Searcher
    from embeddings_pipeline.settings import Settings

__all__ = [
    "Busy",
    "ConfigurationError",
    "CostLimitReached",
    "DeletesRefused",
    "EmbeddingsComponent",
    "EmbeddingsError",
    "Entity",
    "Interrupted",
    "NotFound",
    "Pipeline",
    "RunNeeded",
    "Searcher",
    "Settings",
    "Unavailable",
    "build_embedding_defs",
]

_MODULES = {
    "EmbeddingsComponent": "component",
    "Entity": "entities.entity",
    "Pipeline": "pipeline",
    "Searcher": "search.searcher",
    "Settings": "settings",
    "build_embedding_defs": "assets.factory",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return [*__all__]
