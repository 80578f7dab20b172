"""What sets that are planned will lend, once a run has filled them, to those that come after."""

from __future__ import annotations

from dataclasses import dataclass, field

from psycopg import Connection, sql
from psycopg.sql import Identifier

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.postgres import Row
from embeddings_pipeline.store.statements import Statements
from embeddings_pipeline.store.vector_sets import Origin, VectorSet


@dataclass
class PlannedSets:
    """The sets of all entities that one session has planned, in the order of a run."""

    _filled: dict[ModelIdentity, list[Origin]] = field(default_factory=dict)
    # by the name of their table, its vectors that are not written over
    _left: dict[str, sql.Composable] = field(default_factory=dict)

    def origins(
        self, connection: Connection[Row], on: Statements, identity: ModelIdentity
    ) -> list[Origin]:
        """What a run will find to take over by then, from sets of this model."""
        stored = [
            origin._replace(table=self._left.get(origin.table.as_string(), origin.table))
            for origin in vector_sets.same_model(connection, on, identity)
        ]
        return [*stored, *self._filled.get(identity, ())]

    def add(
        self,
        connection: Connection[Row],
        on: Statements,
        identity: ModelIdentity,
        vector_set: VectorSet | None,
    ) -> None:
        """Add a set of which `lacking` and `to_encode` tell what a run does to it, and
        `changed_rows`, `gone_rows` and `planned` what becomes of its texts."""
        number = sum(map(len, self._filled.values()))
        filled = Identifier("pg_temp", f"filled_{number}")
        connection.execute(
            sql.SQL(
                "create temporary table {} as select distinct text_hash from lacking"
                " where text_hash not in (select text_hash from to_encode where not within)"
            ).format(filled)
        )
        entity = on.source.entity
        self._filled.setdefault(identity, []).append(Origin(entity.name, entity.id, filled))
        if vector_set is None:
            return
        names = {
            "vectors": on.table(vector_set.table_name),
            "lost": Identifier("pg_temp", f"lost_{number}"),
        }
        connection.execute(
            on.fill(
                """
                create temporary table {lost} as
                select v.{id} as id, v.chunk from {vectors} v
                where v.{id} in (select id from changed_rows union all select id from gone_rows)
                    and not exists (
                        select from planned p
                        where p.id = v.{id} and p.chunk = v.chunk and p.text_hash = v.text_hash
                    )
                """,
                **names,
            )
        )
        self._left[names["vectors"].as_string()] = on.fill(
            "(select * from {vectors} v where not exists"
            " (select from {lost} x where x.id = v.{id} and x.chunk = v.chunk))",
            **names,
        )
