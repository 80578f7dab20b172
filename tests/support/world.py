"""A staging table, an entity over it and the steps of a run, for tests of the core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

from psycopg import sql

from embeddings_pipeline.database import Database
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.fields import bind
from embeddings_pipeline.entities.manifest import entity_of
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.store import run_ledger, vector_sets
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.store.migrations import create_control_tables
from embeddings_pipeline.store.staging.source import staging_columns
from embeddings_pipeline.store.tables import EntityTables, TableNames, open_tables
from embeddings_pipeline.store.vector_sets import VectorSet
from embeddings_pipeline.sync.encode import EncodeResult, encode_entity
from embeddings_pipeline.sync.index import sync_index
from embeddings_pipeline.sync.plan import Plan, plans
from embeddings_pipeline.sync.publish import PublishResult, publish
from embeddings_pipeline.sync.retention import retain
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import TextsResult, sync_texts
from tests.support.words import WORDS, WordsEncoder, refuses

SCHEMA = "analytics_features"


class World:
    """One entity over `staging.stg_item`. A fresh `declare` is an edit of the model's yml."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.postgres = Postgres(database)
        self.keep = True
        self.encoder = WordsEncoder()
        self.charge({})

    def charge(self, prices: Mapping[str, float]) -> None:
        """From now on these models have prices, in US dollars per million tokens."""
        self.encoders = Encoders(
            Settings(_env_file=None, embedding_model=WORDS.model, embedding_prices=prices)
        )
        self.use(self.encoder)

    def use(self, encoder: WordsEncoder) -> None:
        """From now on the model of the entity is this one."""
        self.encoder = encoder
        self.encoders.add(encoder)

    def close(self) -> None:
        self.postgres.close()

    def table(self, columns: str, name: str = "stg_item") -> None:
        self.sql(f"create table staging.{name} ({columns})")

    def insert(self, *rows: Sequence[Any], name: str = "stg_item") -> None:
        with self.postgres.connection() as connection, connection.cursor() as cursor:
            marks = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"insert into staging.{name} values ({marks})", rows)

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.postgres.connection() as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def declare(self, name: str = "item", /, **keys: Any) -> Entity:
        node = {"name": f"stg_{name}", "schema": "staging"}
        return entity_of(node, {"id": "id", "entity": name, **keys})

    def names_of(self, entity: Entity) -> TableNames:
        with self.postgres.connection() as connection:
            columns = staging_columns(connection, entity.db_schema, entity.table)
        return TableNames(SCHEMA, bind(entity, columns))

    def tables(self, connection: Any, entity: Entity) -> EntityTables:
        return EntityTables(connection, self.names_of(entity))

    def texts(self, entity: Entity, run_id: str = "", **options: Any) -> TextsResult:
        return sync_texts(
            self.postgres,
            self.postgres,
            self.names_of(entity),
            self.encoders,
            RunOptions(run_id=run_id or str(uuid4()), **options),
            keep=self.keep,
        )

    def vectors(self, entity: Entity, run_id: str = "", **options: Any) -> EncodeResult:
        return encode_entity(
            self.postgres,
            self.names_of(entity),
            self.encoders,
            RunOptions(run_id=run_id or str(uuid4()), **options),
            keep=self.keep,
        )

    def retain(self, entity: Entity, *, grace: int = 0) -> None:
        """Delete cache entries without a text for `grace` seconds, as the end of a run does."""
        settings = self.settings.model_copy(update={"embedding_cache_grace": grace})
        retain(self.postgres, self.names_of(entity), self.encoders, settings)

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, embedding_cache_keep=self.keep, embedding_cache_grace=0)

    def plan(self, entity: Entity, **options: Any) -> Plan:
        (planned,) = self.plans(entity, **options)
        return planned

    def plans(self, *entities: Entity, **options: Any) -> list[Plan]:
        """The plans of runs of these, one after the other."""
        asked = RunOptions(run_id="", **options)
        planned, failures = plans(
            self.postgres,
            self.postgres,
            entities,
            self.names_of,
            self.encoders,
            asked,
            keep=self.keep,
        )
        for error in failures.values():
            raise error
        return planned

    def publish(self, entity: Entity, *, explicit: bool = False) -> PublishResult:
        sync_index(self.postgres, self.names_of(entity))
        return publish(self.postgres, self.names_of(entity), explicit=explicit)

    def run(self, entity: Entity, **options: Any) -> dict[str, Any]:
        """A whole run; returns the counts of its ledger row."""
        run_id = str(uuid4())
        self.texts(entity, run_id, **options)
        self.vectors(entity, run_id)
        published = self.publish(entity)
        self.retain(entity)
        assert not published.reasons, published.summary
        with open_tables(self.postgres, self.names_of(entity)) as tables:
            counts = run_ledger.read(tables, run_id)
        assert counts is not None
        return counts

    def sets(self, entity: Entity) -> list[VectorSet]:
        with open_tables(self.postgres, self.names_of(entity)) as tables:
            return vector_sets.read(tables)

    def view(self, name: str = "item") -> dict[tuple[str, int], str]:
        """(id, chunk) -> text of the published view."""
        rows = self.sql(f"select id::text, chunk, text from {SCHEMA}.{name}_embeddings")
        assert len({row[:2] for row in rows}) == len(rows)
        return {(row[0], row[1]): row[2] for row in rows}

    def stored(self, name: str = "item") -> dict[str, list[tuple[Any, ...]]]:
        """All that a run leaves, apart from times and runs: to compare two ways to one end."""
        view = sql.SQL(
            "select id::text, chunk, text, text_hash, embedding::text from {} order by 1, 2"
        ).format(sql.Identifier(SCHEMA, f"{name}_embeddings"))
        texts = sql.SQL(
            "select id::text, chunk, partition_key, text, text_hash from {} order by 1, 2"
        ).format(sql.Identifier(SCHEMA, f"{name}_texts"))
        with self.postgres.connection() as connection:
            return {
                "view": connection.execute(view).fetchall(),
                "texts": connection.execute(texts).fetchall(),
            }

    def assert_vectors_are_of_their_texts(self, name: str = "item") -> None:
        """Each published vector is what the encoder makes of the text beside it."""
        for row_id, text, vector in self.sql(
            f"select id, text, embedding::text from {SCHEMA}.{name}_embeddings"
        ):
            wanted = self.encoder.encode_query([text]).vectors[0]
            found = [float(x) for x in vector.strip("[]").split(",")]
            assert abs(wanted - found).max() < 1e-5, (row_id, text)


@contextmanager
def world_in(database: Database, *, fresh: bool = True) -> Iterator[World]:
    """A world in a database: an empty one, or one in which there is a world already."""
    world = World(database)
    try:
        if fresh:
            world.sql("create schema staging")
        with world.postgres.connection() as connection:
            create_control_tables(connection, SCHEMA)
        yield world
    finally:
        world.close()


def plan_and_run(world: World, entity: Entity, **options: Any) -> Plan:
    """The plan, checked against what the run that follows puts into the ledger."""
    planned = world.plan(entity)
    done = world.run(entity, **options)
    assert sum(s.pending for s in planned.sets) == done["pending"]
    assert sum(s.encode for s in planned.sets) == done["encoded"]
    assert sum(s.reusable for s in planned.sets) == done["reused"]
    assert sum(s.tokens for s in planned.sets) == done["tokens"]
    assert planned.deleted == done["deleted"]
    return planned


def refusing(world: World, *words: str, revision: str = "r2") -> WordsEncoder:
    """Another model, that takes no text with one of these words."""
    return WordsEncoder(replace(world.encoder.identity, revision=revision), refuses(*words))
