"""Whatever happened before, a run ends with what staging says now."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from embeddings_pipeline.entities import chunking
from embeddings_pipeline.entities.entity import Entity
from embeddings_pipeline.entities.partitions import HashPartitions
from embeddings_pipeline.entities.rendering import render, render_header
from embeddings_pipeline.store import vector_sets
from embeddings_pipeline.store.migrations import create_control_tables
from embeddings_pipeline.store.tables import TableNames, open_tables
from embeddings_pipeline.store.texts import erasures
from embeddings_pipeline.store.vectors import coverage
from embeddings_pipeline.store.vectors.cache import Evict
from embeddings_pipeline.sync.encode import encode_entity
from embeddings_pipeline.sync.erase import erase, lift
from embeddings_pipeline.sync.index import sync_index
from embeddings_pipeline.sync.publish import publish
from embeddings_pipeline.sync.retention import retain
from embeddings_pipeline.sync.run_options import RunOptions
from embeddings_pipeline.sync.texts import sync_texts
from tests.support import faults
from tests.support.faults import Died, Exchanges
from tests.support.statements import statement
from tests.support.words import WORDS, WordsEncoder
from tests.support.world import SCHEMA, World

MODELS = ("fake/words", "fake/one", "fake/two")
IDS = st.integers(0, 7)
NAMES = st.sampled_from(["pump", "red hose", "valve", " ", "", None])
BODIES = st.sampled_from(
    [None, "short", *(" ".join(f"Part {n} of a text." for n in range(size)) for size in (5, 9))]
)
STOCKS = st.sampled_from([0, 7, None])
ROWS = st.tuples(IDS, NAMES, BODIES, STOCKS, st.booleans())


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
    "chunk": [None, {"tokens": 16}, {"tokens": 24, "overlap": 8, "repeat": ["name"]}],
    "partitions": [{"count": count} for count in (1, 3, 8)],
    "where": [None, "consent"],
    "model": list(MODELS),
    "keep_sets": [0, 1],
    "storage": ["vector", "halfvec"],
}


ACCIDENTS = {"killed": faults.dies, "answer lost": faults.answer_lost}


@dataclass(frozen=True)
class Day:
    """What people change, and the run that follows: whole, or with an accident on its way."""

    changes: list[str]
    edits: dict[str, Any]
    erased: list[int]
    lifted: list[int]
    accident: tuple[str, int] | None


DAYS = st.builds(
    Day,
    changes=st.lists(CHANGES, max_size=4),
    edits=st.dictionaries(st.sampled_from(list(EDITS)), st.none(), max_size=2).flatmap(
        lambda keys: st.fixed_dictionaries({key: st.sampled_from(EDITS[key]) for key in keys})
    ),
    erased=st.lists(IDS, max_size=1),
    lifted=st.lists(IDS, max_size=1),
    # exchanges of a run after which it happens: often among the first ones, which erase
    accident=st.none()
    | st.tuples(st.sampled_from(list(ACCIDENTS)), st.integers(1, 8) | st.integers(1, 150)),
)


class History:
    """A few rows, and what happens to them."""

    def __init__(self, world: World, exchanges: Exchanges, rows: Sequence[Sequence[Any]]) -> None:
        self.world, self.exchanges = world, exchanges
        self.keys: dict[str, Any] = {"filters": ["stock"], "model": MODELS[0]}
        world.sql(f"drop schema if exists {SCHEMA}, staging cascade")
        world.sql("create schema staging")
        with world.postgres.connection() as connection:
            create_control_tables(connection, SCHEMA)
        world.table("id bigint, name text, body text, stock int, consent boolean")
        world.insert(*rows)
        self.run()

    @property
    def item(self) -> Entity:
        text = {} if self.keys.get("template") else {"include": ["name", "body"]}
        return self.world.declare(**text, **self.keys)

    @property
    def evict(self) -> Evict:
        return self.world.encoders.cache.evict

    def live(self, day: Day) -> None:
        for change in day.changes:
            self.world.sql(change)
        self.keys |= day.edits
        names = self.world.names_of(self.item)
        if day.lifted:
            lift(self.world.postgres, names, list(map(str, day.lifted)))
        if day.accident is None:
            erase(self.world.postgres, names, list(map(str, day.erased)), self.evict)
            self.run()
        else:
            self.run_with_accident(names, day, *day.accident)

    def run(self) -> None:
        self.world.run(self.item, allow_deletes=True)
        self.assert_what_staging_says()

    def run_with_accident(self, names: TableNames, day: Day, accident: str, at: int) -> None:
        database = self.world.postgres
        with suppress(Died), self.exchanges.armed(ACCIDENTS[accident], at):
            erase(database, names, list(map(str, day.erased)), self.evict)
            encoders = self.world.encoders
            options = RunOptions("run", allow_deletes=True)
            sync_texts(database, database, names, encoders, options)
            encode_entity(database, names, encoders, options)
            retain(database, names, encoders, self.world.settings)
            sync_index(database, names)
            publish(database, names)
        if accident == "answer lost":
            self.assert_what_staging_says()

    def end(self) -> None:
        self.run()
        counts = self.world.run(self.item, allow_deletes=True)
        assert (counts["read"], counts["pending"], counts["deleted"]) == (0, 0, 0)

    def assert_what_staging_says(self) -> None:
        item = self.item
        assert self.world.view() == self.rendered(item)
        self.assert_columns_beside_the_vectors(item)
        self.assert_vectors_are_of_their_texts(item)
        with open_tables(self.world.postgres, self.world.names_of(item)) as tables:
            assert erasures.count_remains(self.world.tables(tables.connection, item)) == 0
            # a retired set keeps a row as a whole as it was
            for vector_set in vector_sets.maintained(self.world.sets(item)):
                assert coverage.orphans(tables, vector_set) == 0

    def rendered(self, item: Entity) -> dict[tuple[str, int], str]:
        """(id, chunk) -> text of each row of staging."""
        columns = self.world.names_of(item).source.text_columns
        expected: dict[tuple[str, int], str] = {}
        for row_id, name, body in self.world.sql(
            f"select id::text, name, body from staging.stg_item where {item.where or 'true'}"
            f" and id::text not in (select id from {SCHEMA}.erasures)"
        ):
            row = {"name": name, "body": body}
            text = render(item, columns, row)
            if text is not None:
                header = render_header(item, row)
                pieces = (
                    chunking.split(text.text, item.chunk, header) if item.chunk else [text.text]
                )
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
            assert abs(encoder.encode_query([text]).vectors[0] - found).max() < 1e-3


@pytest.mark.long
def test_any_history_ends_with_what_staging_says(exchanges: Exchanges, world: World) -> None:
    for name in MODELS:
        world.encoders.add(WordsEncoder(replace(WORDS, model=name)))

    @given(
        rows=st.lists(ROWS, min_size=4, max_size=8, unique_by=lambda row: row[0]),
        days=st.lists(DAYS, min_size=2, max_size=8),
    )
    @settings(
        max_examples=10,
        deadline=None,
        # a few days are short enough to read, and each try to shorten them takes seconds
        phases=[Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def live(rows: list[tuple[Any, ...]], days: list[Day]) -> None:
        history = History(world, exchanges, rows)
        for day in days:
            history.live(day)
        history.end()

    live()
