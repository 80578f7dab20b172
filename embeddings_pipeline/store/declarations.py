"""The declarations of entities as their last runs stored them."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.sql import Identifier
from pydantic import ValidationError

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import Source
from embeddings_pipeline.errors import Failures, NotFound, RunNeeded
from embeddings_pipeline.store.connection import Row
from embeddings_pipeline.store.tables import TableNames


def stored_entities(connection: Connection[Row], schema: str) -> tuple[dict[str, Entity], Failures]:
    """Every entity that was ever run, by name, and the failures of unreadable declarations."""
    found, failures = {}, Failures()
    for name, definition in _stored(connection, schema).items():
        with failures.of(name):
            found[name] = read_definition(name, definition)
    return found, failures


def stored_entity(connection: Connection[Row], schema: str, name: str) -> Entity:
    """A stored entity. Raises NotFound with the choices, or as `read_definition` does."""
    known = _stored(connection, schema)
    if name not in known:
        raise NotFound(f"there is no entity {name!r} (entities: {', '.join(known) or 'none yet'})")
    return read_definition(name, known[name])


def read_definition(name: str, definition: str) -> Entity:
    """The entity of a stored declaration. Raises RunNeeded for a declaration that is not valid in
    this version."""
    try:
        return Entity.model_validate_json(definition)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise RunNeeded(
            f"entity {name!r}: the declaration that its last run stored cannot be read ({wrong}):"
            f" run `embeddings-pipeline run {name}` first"
        ) from error


def _stored(connection: Connection[Row], schema: str) -> dict[str, str]:
    rows = connection.execute(
        sql.SQL("select entity, definition::text from {} order by entity").format(
            Identifier(schema, "entities")
        )
    )
    return dict(rows.fetchall())


def as_stored(schema: str, entity: Entity, columns: dict[str, str] | None = None) -> TableNames:
    """The names of an entity's tables, for statements that do not read the staging model."""
    return TableNames(schema, Source(entity, columns or {}, "text", (), {}))
