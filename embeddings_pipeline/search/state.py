"""What the service says of its entities, remembered for some seconds: it reads whole tables."""

from __future__ import annotations

from threading import Condition

from cachetools import TTLCache, cached

from embeddings_pipeline.engine import Engine
from embeddings_pipeline.search.schemas_state import Entities, Stats

# facets change slowly, coverage does not
_ENTITIES_SECONDS, _STATS_SECONDS = 60, 10


class State:
    """Entities and their state. Safe between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.entities = cached(TTLCache(1, _ENTITIES_SECONDS), condition=Condition())(
            self._entities
        )
        self.stats = cached(TTLCache(1, _STATS_SECONDS), condition=Condition())(self._stats)

    def _entities(self) -> Entities:
        return Entities(entities=[])

    def _stats(self) -> Stats:
        return Stats(entities=[])
