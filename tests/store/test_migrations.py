"""Tables of an earlier version are brought up to this one, and nothing is encoded again for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from embeddings_pipeline.database import Database
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.store import migrations, schema
from tests.data.make_tables_before_schema_version import DECLARED, DUMP, MODELS, refuse_poison
from tests.support.words import WordsEncoder
from tests.support.world import SCHEMA, World, world_in

# of item's second set four rows that a limit left, and one that the model refuses; and what a
# forced run that was cut short left
LEFT = {"item": 5, "shoe": 0, "lamp": 0, "forced": 4}


@pytest.fixture
def before(database: Database) -> Database:
    """The tables as the version before `schema_version` made them."""
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        connection.execute(DUMP.read_text())
        # whenever the dump was made, what failed may be tried again
        connection.execute(f"update {SCHEMA}.quarantine set last_seen = '2026-01-01'")
    return database


@pytest.fixture
def migrated(before: Database) -> Iterator[World]:
    with world_in(before, fresh=False) as world:
        for identity in MODELS:
            world.use(WordsEncoder(identity, refuse_poison))
        yield world


def view(database: Database, name: str) -> list[tuple[object, ...]]:
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        return connection.execute(
            f"select id::text, chunk, text, embedding::text, updated_at"
            f" from {SCHEMA}.{name}_embeddings order by 1, 2"
        ).fetchall()


def seed(world: World, *, keep: bool = True) -> int:
    """Finish the migration; returns in how many windows."""
    return sum(1 for _ in migrations.seed_caches(world.postgres, SCHEMA, keep=keep))


@pytest.mark.parametrize("name", DECLARED)
def test_published_views_show_what_they_showed(before: Database, name: str) -> None:
    shown = [row[:4] for row in view(before, name)]
    assert shown
    with world_in(before, fresh=False):
        pass
    assert [row[:4] for row in view(before, name)] == shown


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("name", DECLARED)
def test_the_next_run_encodes_what_the_earlier_version_would_have(
    migrated: World, name: str, seeded: bool
) -> None:
    if seeded:
        seed(migrated)
    entity = migrated.declare(name, **DECLARED[name])
    planned = migrated.plan(entity)
    assert sum(s.encode for s in planned.sets) == LEFT[name]
    migrated.texts(entity)
    result = migrated.vectors(entity)
    assert result.counts.encoded + result.counts.quarantined == LEFT[name]
    assert result.counts.quarantined == (name == "item")


def test_a_stored_declaration_that_cannot_be_read_keeps_no_table_from_migrating(
    before: Database,
) -> None:
    shown = view(before, "shoe")
    with closing(psycopg.connect(before.url, autocommit=True)) as connection:
        connection.execute(
            f"""update {SCHEMA}.entities set definition = definition ||
            '{{"index": {{"type": "of old"}}, "former_key": 1}}' where entity = 'item'"""
        )
    with world_in(before, fresh=False):
        pass
    assert [row[:4] for row in view(before, "shoe")] == [row[:4] for row in shown]


@pytest.mark.parametrize(
    "added",
    # commits before the second version had the first of these columns already
    ["drop query_prompt, drop text_weight", "drop text_weight"],
)
def test_tables_of_the_first_version_get_what_came_later(world: World, added: str) -> None:
    world.table("id bigint, name text")
    world.insert((1, "red shoe"))
    entity = world.declare()
    world.run(entity)
    world.sql(
        f"alter table {SCHEMA}.vector_sets {added};"
        f"alter table {SCHEMA}.vector_sets rename recall_check to canary;"
        f"update {SCHEMA}.schema_version set version = 1"
    )
    with world.postgres.connection() as connection:
        planned, *_ = migrations.planned(connection, SCHEMA)
    assert (planned.table, planned.rows) == ("vector_sets", 1)
    with world_in(world.database, fresh=False) as again:
        counted = f"select documents from {SCHEMA}.entities"
        # the lexemes lack levels: the next run computes and counts them again
        assert again.sql(counted) == [(None,)]
        assert again.run(entity)["encoded"] == 0
        assert again.sql(counted) == [(1,)]
        assert again.sql(f"select max(version) from {SCHEMA}.schema_version") == [(schema.VERSION,)]


def test_tables_of_the_third_version_get_the_history_of_quality(world: World) -> None:
    world.sql(
        f"drop table {SCHEMA}.quality_history; update {SCHEMA}.schema_version set version = 3"
    )
    with world.postgres.connection() as connection:
        planned = [step.table for step in migrations.planned(connection, SCHEMA)]
    assert planned == ["quality_history", "entities"]
    with world_in(world.database, fresh=False) as again:
        assert again.sql(f"select count(*) from {SCHEMA}.quality_history") == [(0,)]


def test_a_forced_run_that_was_cut_short_goes_on(migrated: World) -> None:
    seed(migrated)
    forced = migrated.declare("forced", **DECLARED["forced"])
    assert sum(s.encode for s in migrated.plan(forced, force=True).sets) == 4
    assert migrated.vectors(forced, force=True).counts.encoded == 4


def test_marts_and_grants_stay(migrated: World) -> None:
    assert migrated.sql("select count(*) from staging.mart")[0][0] > 0
    assert migrated.sql(
        f"select has_table_privilege('public', '{SCHEMA}.item_embeddings', 'select')"
    ) == [(True,)]


def test_what_is_erased_but_not_yet_forgotten_stays_noted(migrated: World) -> None:
    assert migrated.sql(
        f"select count(*) from {SCHEMA}.cache_candidates where entity = 'item' and erased"
    ) == [(1,)]


def test_vectors_come_into_the_caches_so_that_a_storage_changes_without_encoding(
    migrated: World,
) -> None:
    seed(migrated)
    lamp = migrated.declare("lamp", **{**DECLARED["lamp"], "storage": "vector"})
    migrated.texts(lamp)
    result = migrated.vectors(lamp)
    assert (result.counts.encoded, result.counts.reused) == (0, 4)


def test_seeding_goes_on_where_it_was_stopped(migrated: World) -> None:
    windows = migrations.seed_caches(migrated.postgres, SCHEMA, keep=True)
    for _ in range(5):
        next(windows)
    windows.close()
    whole = 64 * len(MODELS)
    assert seed(migrated) == whole - 5
    assert seed(migrated) == 0


def test_where_caches_are_not_kept_nothing_is_copied(migrated: World) -> None:
    seed(migrated, keep=False)
    for number in (1, 2):
        assert migrated.sql(f"select count(*) from {SCHEMA}.embedding_cache_{number}") == [(0,)]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(before: Database) -> None:
    with closing(psycopg.connect(before.url, autocommit=True)) as connection:
        found = {m.table: m.rows for m in migrations.planned(connection, SCHEMA)}
        assert found["item_texts"] == 13
        assert set(found) == {
            *(f"{name}_texts" for name in DECLARED),
            *(f"{name}_vectors_1" for name in DECLARED),
            *("item_vectors_2", "vector_sets", "quality_history", "entities"),
        }
        assert schema.stored_version(connection, SCHEMA) == 0
    with world_in(before, fresh=False) as world, world.postgres.connection() as connection:
        assert migrations.planned(connection, SCHEMA) == []


def test_tables_of_a_newer_version_are_refused(world: World) -> None:
    world.sql(f"update {SCHEMA}.schema_version set version = {schema.VERSION + 1}")
    with (
        world.postgres.connection() as connection,
        pytest.raises(ConfigurationError, match="have version 6, and this program knows version 5"),
    ):
        migrations.create_control_tables(connection, SCHEMA)


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (
            "alter table run_ledger rename tokens to spent",
            "lacks tokens and it has the extra columns spent",
        ),
        ("alter table vector_sets add note text", "vector_sets.*has the extra columns note"),
        ("alter table renewals drop partition_keys", "renewals.*lacks partition_keys"),
        (
            "alter table run_ledger add spent int not null default 0",
            "run_ledger.*has the extra columns spent",
        ),
        ("alter table quarantine rename error to reason", "quarantine.*lacks error and.*reason"),
    ],
)
def test_tables_that_somebody_altered_are_refused(world: World, altered: str, said: str) -> None:
    world.sql(f"set search_path to {SCHEMA}; {altered}")
    with (
        world.postgres.connection() as connection,
        pytest.raises(ConfigurationError, match=said),
    ):
        migrations.create_control_tables(connection, SCHEMA)
