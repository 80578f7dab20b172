"""The declarations that the last runs followed: what is known of entities without a dbt project."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.source import Source
from embeddings_pipeline.errors import NotFound
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements


def entities(connection: Connection[Row], schema: str) -> dict[str, Entity]:
    """Every entity that was ever run, by name."""
    rows = connection.execute(
        sql.SQL("select entity, definition::text from {} order by entity").format(
            Identifier(schema, "entities")
        )
    )
    return {name: Entity.model_validate_json(definition) for name, definition in rows}


def entity(connection: Connection[Row], schema: str, name: str) -> Entity:
    """One of them. Raises NotFound that names the choices."""
    known = entities(connection, schema)
    if name not in known:
        raise NotFound(f"there is no entity {name!r} (entities: {', '.join(known) or 'none yet'})")
    return known[name]


def as_stored(schema: str, entity: Entity) -> Statements:
    """Statements that read only what is stored: these need no more of a source than its names."""
    return Statements(schema, Source(entity, {}, "text", (), {}))
