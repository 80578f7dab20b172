"""Whatever happened before, a run ends with what staging says now."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg import sql

from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.entities.serialise import render
from embeddings_pipeline.store import entity_tables, erasures, queries
from embeddings_pipeline.store.schema import create_control_tables
from embeddings_pipeline.sync.erase import erase, lift
from embeddings_pipeline.sync.index import sync_index
from embeddings_pipeline.sync.publish import publish
from embeddings_pipeline.sync.sets import sync_sets
from embeddings_pipeline.sync.texts import sync_texts
from embeddings_pipeline.sync.vectors import Request
from tests import faults
from tests.faults import Died, Exchanges, Spoil
from tests.words import WORDS, WordsEncoder
from tests.world import SCHEMA, World

MODELS = ("fake/words", "fake/one", "fake/two")
IDS = st.integers(0, 7)
NAMES = st.sampled_from(["pump", "red hose", "valve", " ", "", None])
BODIES = st.sampled_from(
    [None, "short", *(" ".join(f"Part {n} of a text." for n in range(size)) for size in (5, 9))]
)
STOCKS = st.sampled_from([0, 7, None])
ROWS = st.tuples(IDS, NAMES, BODIES, STOCKS, st.booleans())


def statement(query: str, *values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """A change of staging, with each `{}` a literal."""
    literals = st.tuples(*values).map(lambda drawn: [sql.Literal(v).as_string() for v in drawn])
    return literals.map(lambda drawn: query.format(*drawn))


CHANGES = st.one_of(
    statement("delete from staging.stg_item where id = {}", IDS),
    # a row that comes, or another one where it is there already
    statement(
        "delete from staging.stg_item where id = {0};"
        " insert into staging.stg_item values ({0}, {1}, {2}, {3}, {4})",
        *(IDS, NAMES, BODIES, STOCKS, st.booleans()),
    ),
    statement("update staging.stg_item set name = {} where id = {}", NAMES, IDS),
    statement("update staging.stg_item set body = {} where id = {}", BODIES, IDS),
    statement("update staging.stg_item set stock = {} where id = {}", STOCKS, IDS),
    statement("update staging.stg_item set consent = not consent where id = {}", IDS),
    # two rows take each other's texts
    statement(
        "update staging.stg_item a set name = b.name, body = b.body from staging.stg_item b"
        " where (a.id, b.id) in (({0}, {1}), ({1}, {0}))",
        *(IDS, IDS),
    ),
)
# what may be edited in the model's yml
EDITS: dict[str, list[Any]] = {
    "template": [None, "{name} or {body}", "{name} and {body}", "{body}"],
    "filters": [(), ("stock",), ("stock", "consent")],
    "chunk": [None, {"tokens": 16}, {"tokens": 24, "overlap": 8}],
    "partitions": [{"count": count} for count in (1, 3, 8)],
    "where": [None, "consent"],
    "model": list(MODELS),
    "keep_sets": [0, 1],
    "storage": ["vector", "halfvec"],
}


def edits_of(key: str) -> st.SearchStrategy[tuple[str, Any]]:
    return st.sampled_from([(key, value) for value in EDITS[key]])


class History(RuleBasedStateMachine):
    """What people, schedulers and accidents do to a few rows."""

    def __init__(self, world: World, exchanges: Exchanges) -> None:
        super().__init__()
        self.world, self.exchanges = world, exchanges
        self.keys: dict[str, Any] = {
            "include": ["name", "body"],
            "filters": ["stock"],
            "model": MODELS[0],
        }
        world.sql(f"drop schema if exists {SCHEMA}, staging cascade")
        world.sql("create schema staging")
        with world.postgres.connection() as connection:
            create_control_tables(connection, SCHEMA)
        world.table("id bigint, name text, body text, stock int, consent boolean")

    @property
    def item(self) -> Entity:
        keys = dict(self.keys)
        if keys.get("template"):
            del keys["include"]
        return self.world.declare(**keys)

    @initialize(rows=st.lists(ROWS, min_size=4, max_size=8, unique_by=lambda row: row[0]))
    def begin(self, rows: list[tuple[Any, ...]]) -> None:
        self.world.insert(*rows)

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=4))
    def change_rows(self, changes: list[str]) -> None:
        for change in changes:
            self.world.sql(change)

    @rule(edits=st.lists(st.sampled_from(list(EDITS)).flatmap(edits_of), min_size=1, max_size=4))
    def edit_declaration(self, edits: list[tuple[str, Any]]) -> None:
        self.keys |= dict(edits)

    @rule()
    def run(self) -> None:
        self.world.run(self.item, allow_deletes=True)

    @rule(at=st.integers(1, 150))
    def run_until_it_is_killed(self, at: int) -> None:
        self._spoilt_run(faults.dies, at)

    @rule(at=st.integers(1, 150))
    def run_although_the_connection_is_lost(self, at: int) -> None:
        self._spoilt_run(faults.answer_lost, at)

    @rule(row_id=IDS, at=st.integers(1, 12))
    def erase(self, row_id: int, at: int) -> None:
        """Some of these are killed on their way, and still have to come true."""
        on = self.world.on(self.item)
        with self.world.postgres.connection() as connection:
            entity_tables.ensure_entity(connection, SCHEMA, on.source)
        with suppress(Died), self.exchanges.armed(faults.dies, at):
            erase(self.world.postgres, on, [str(row_id)])

    @rule(row_id=IDS)
    def lift(self, row_id: int) -> None:
        lift(self.world.postgres, self.world.on(self.item), [str(row_id)])

    def _spoilt_run(self, spoil: Spoil, at: int) -> None:
        database, on = self.world.postgres, self.world.on(self.item)
        with suppress(Died), self.exchanges.armed(spoil, at):
            sync_texts(database, database, on, "run", allow_deletes=True)
            sync_sets(database, on, self.world.encoders, Request("run"))
            sync_index(database, on)
            publish(database, on)

    def teardown(self) -> None:
        """A last run, and what it must have come to."""
        item = self.item
        self.world.run(item, allow_deletes=True)
        assert self.world.view() == self.rendered(item)
        self.assert_columns_beside_the_vectors(item)
        self.assert_vectors_are_of_their_texts(item)
        with self.world.postgres.connection() as connection:
            assert erasures.traces(connection, self.world.on(item)) == 0
            for vector_set in self.world.sets(item):
                assert queries.orphans(connection, self.world.on(item), vector_set) == 0
        counts = self.world.run(item, allow_deletes=True)
        assert (counts["read"], counts["pending"], counts["deleted"]) == (0, 0, 0)

    def rendered(self, item: Entity) -> dict[tuple[str, int], str]:
        """(id, chunk) -> text of each row of staging."""
        columns = self.world.on(item).source.text_columns
        expected = {}
        for row_id, name, body in self.world.sql(
            f"select id::text, name, body from staging.stg_item where {item.where or 'true'}"
            f" and id::text not in (select id from {SCHEMA}.erasures)"
        ):
            text = render(item, columns, {"name": name, "body": body})
            if text is not None:
                pieces = chunking.split(text.text, item.chunk) if item.chunk else [text.text]
                expected |= {(row_id, chunk): piece for chunk, piece in enumerate(pieces)}
        return expected

    def assert_columns_beside_the_vectors(self, item: Entity) -> None:
        filters = ", ".join(("id", *item.filters))
        wrong = self.world.sql(
            f"select {filters} from {SCHEMA}.item_embeddings"
            f" except select {filters} from staging.stg_item"
        )
        assert wrong == []
        assert isinstance(item.partitions, HashPartitions)
        for row_id, key in self.world.sql(
            f"select id::text, partition_key from {SCHEMA}.item_texts"
        ):
            assert key == item.partitions.key_of(row_id)

    def assert_vectors_are_of_their_texts(self, item: Entity) -> None:
        assert item.model
        encoder = self.world.encoders.get(item.model)
        for text, model, vector in self.world.sql(
            f"select text, model, embedding::text from {SCHEMA}.item_embeddings"
        ):
            assert model == item.model
            found = [float(value) for value in vector.strip("[]").split(",")]
            # halfvec has 11 bits
            assert abs(encoder.encode_query(text) - found).max() < 1e-3


def test_any_history_ends_with_what_staging_says(exchanges: Exchanges, world: World) -> None:
    for name in MODELS:
        world.encoders.add(WordsEncoder(replace(WORDS, model=name)))
    run_state_machine_as_test(
        lambda: History(world, exchanges),
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            # a dozen steps are short enough to read, and each try to shorten them takes seconds
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
