"""Searches what is published now, while it may be published anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psycopg.errors import UndefinedTable

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.search.finding import MovedError, Wanted, find
from embeddings_pipeline.store import published as store
from embeddings_pipeline.store.fusion import Found
from embeddings_pipeline.store.postgres import Postgres
from embeddings_pipeline.store.published import Published

# what is published may move while it is searched, but not again and again
_TRIES = 5


class LiveSets:
    """The live vector set of each entity, remembered until a search meets another in its place."""

    def __init__(self, database: Postgres, schema: str) -> None:
        self._database = database
        self._schema = schema
        self._known: dict[str, Published] = {}

    def find(
        self, entity: str, wanted: Callable[[Published], Wanted]
    ) -> tuple[Published, Sequence[Found]]:
        """What was searched, and what was found there of what is `wanted` of it.

        Raises ConfigurationError where there is no such entity, or nothing is published yet, and
        what `wanted` raises.
        """
        for _ in range(_TRIES):
            published = self._known.get(entity) or self._read(entity)
            try:
                asked = wanted(published)
                with self._database.connection() as connection:
                    return published, find(connection, published, asked)
            except (MovedError, UndefinedTable):
                self._known.pop(entity, None)
            except ConfigurationError:
                # what was known of the entity may be at fault
                if self._read(entity).version == published.version:
                    raise
        raise ConfigurationError(f"entity {entity!r} is published anew again and again: try later")

    def _read(self, entity: str) -> Published:
        with self._database.connection() as connection:
            published = store.read(connection, self._schema, entity)
        self._known[entity] = published
        return published
