"""The declarations that the last runs followed: what is known of entities without a dbt project."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.sql import Identifier
from pydantic import ValidationError

from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.source import Source
from embeddings_pipeline.errors import Failures, NotFound, RunNeeded
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements


def entities(connection: Connection[Row], schema: str) -> tuple[dict[str, Entity], Failures]:
    """Every entity that was ever run, by name, and those of them that cannot be read."""
    found, failures = {}, Failures()
    for name, definition in _stored(connection, schema).items():
        with failures.of(name):
            found[name] = read(name, definition)
    return found, failures


def entity(connection: Connection[Row], schema: str, name: str) -> Entity:
    """One of them. Raises NotFound that names the choices, and as `read` does."""
    known = _stored(connection, schema)
    if name not in known:
        raise NotFound(f"there is no entity {name!r} (entities: {', '.join(known) or 'none yet'})")
    return read(name, known[name])


def read(name: str, definition: str) -> Entity:
    """The entity of a stored declaration. Raises RunNeeded for one that this version does not
    take, as one of another version may be."""
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


def as_stored(schema: str, entity: Entity) -> Statements:
    """Statements that read only what is stored: these need no more of a source than its names."""
    return Statements(schema, Source(entity, {}, "text", (), {}))
