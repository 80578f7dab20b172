"""What a run does with rows that come, change and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from embeddings_pipeline.errors import ConfigurationError, DeletesRefused
from embeddings_pipeline.store.vectors import coverage
from embeddings_pipeline.sync.progress import Progress
from tests.support.world import SCHEMA, World


def test_rows_become_published_vectors(world: World) -> None:
    world.table("id bigint, name text, price numeric(10,2), is_active boolean, note text")
    world.insert(
        (1, "Pump", 1250, True, None), (2, "Hose", None, False, ""), (3, None, None, None, None)
    )
    item = world.declare(filters=["is_active"])

    counts = world.run(item)

    assert world.view() == {
        ("1", 0): "name: Pump. price: 1250.00. is_active: yes",
        ("2", 0): "name: Hose. is_active: no",
    }
    assert (counts["read"], counts["encoded"], counts["pending"]) == (3, 2, 2)
    world.assert_vectors_are_of_their_texts()


def test_an_unchanged_row_is_not_encoded_again(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"))
    item = world.declare()
    world.run(item)

    counts = world.run(item)

    assert (counts["read"], counts["encoded"], counts["reused"], counts["pending"]) == (0, 0, 0, 0)
    assert world.encoder.encoded == ["name: Pump", "name: Hose"]


def test_only_changed_new_and_gone_rows_are_touched(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(500)])
    item = world.declare()
    world.run(item)
    world.encoder.encoded.clear()

    world.sql("update staging.stg_item set name = 'changed ' || id where id in (3, 77)")
    world.sql("delete from staging.stg_item where id in (5, 6, 7)")
    world.insert((900, "new"))
    counts = world.run(item)

    assert sorted(world.encoder.encoded) == ["name: changed 3", "name: changed 77", "name: new"]
    assert counts["deleted"] == 3
    expected = world.sql("select id, name from staging.stg_item")
    assert world.view() == {(str(row_id), 0): f"name: {name}" for row_id, name in expected}
    world.assert_vectors_are_of_their_texts()


def test_a_pass_tells_how_many_of_the_rows_that_moved_are_rendered(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*((n, f"thing {n}") for n in range(4_500)))
    told: list[Progress] = []
    world.texts(world.declare(), report=told.append)
    assert [(p.entity, p.done, p.pending, p.unit) for p in told] == [
        ("item texts", done, 4_500, "rows") for done in (2_000, 4_000, 4_500)
    ]


def test_two_rows_that_swap_their_texts_swap_their_vectors(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "red shoe"), (2, "blue lamp"))
    item = world.declare()
    world.run(item)

    world.sql(
        "update staging.stg_item set name = case id when 1 then 'blue lamp' else 'red shoe' end"
    )
    world.run(item)

    assert world.view() == {("1", 0): "name: blue lamp", ("2", 0): "name: red shoe"}
    world.assert_vectors_are_of_their_texts()


def test_equal_texts_are_encoded_once(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n % 7}") for n in range(3_000)])

    counts = world.run(world.declare())

    assert len(world.encoder.encoded) == len(set(world.encoder.encoded)) == 7
    assert (counts["encoded"], counts["reused"]) == (7, 2_993)
    assert len(world.view()) == 3_000


def test_a_text_that_shrinks_loses_its_chunks(world: World) -> None:
    world.table("id bigint, body text")
    world.insert((1, " ".join(f"Sentence number {n} says a thing." for n in range(30))))
    item = world.declare(include=["body"], chunk={"tokens": 64})
    world.run(item)
    assert len(world.view()) > 3

    world.sql("update staging.stg_item set body = 'short now'")
    world.run(item)

    assert world.view() == {("1", 0): "body: short now"}


def test_repeated_columns_stand_in_front_of_each_chunk_and_their_changes_are_found(
    world: World,
) -> None:
    world.table("id bigint, name text, body text")
    sentences = " ".join(f"Sentence number {n} says a thing." for n in range(30))
    world.insert((1, "Pump", sentences), (2, "Hose", "short"), (3, "Valve", None), (4, None, "red"))
    item = world.declare(chunk={"tokens": 64, "repeat": ["name"]})
    world.run(item)

    view = world.view()
    long = [text for (row, _), text in view.items() if row == "1"]
    assert len(long) > 3
    assert all(text.startswith("name: Pump. ") for text in long)
    assert {text for (row, _), text in view.items() if row != "1"} == {
        *("name: Hose. body: short", "name: Valve", "body: red")
    }

    world.sql("update staging.stg_item set name = 'Motor' where id = 1")
    world.run(item)

    changed = [text for (row, _), text in world.view().items() if row == "1"]
    assert changed == [text.replace("Pump", "Motor") for text in long]


def test_with_a_template_the_repeated_values_stand_without_their_names(world: World) -> None:
    world.table("id bigint, name text, body text")
    world.insert((1, "Pump", "It moves water."))
    world.run(world.declare(template="{body}", chunk={"tokens": 64, "repeat": ["name"]}))

    assert world.view() == {("1", 0): "Pump. It moves water."}


def test_a_row_that_loses_its_text_loses_its_vector(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"), (2, "Hose"))
    item = world.declare()
    world.run(item)

    world.sql("update staging.stg_item set name = null where id = 1")
    world.run(item)

    assert world.view() == {("2", 0): "name: Hose"}
    assert world.run(item)["read"] == 0


@pytest.mark.parametrize("kind", ["hash", "more of hash"])
def test_a_changed_partition_count_moves_keys_and_encodes_nothing(world: World, kind: str) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(200)])
    world.run(world.declare())
    world.encoder.encoded.clear()

    count = 3 if kind == "hash" else 200
    item = world.declare(partitions={"count": count})
    result = world.texts(item)
    counts = world.run(item)

    assert result.rekeyed > 0
    assert counts["read"] == counts["encoded"] == 0
    for row_id, key in world.sql(f"select id::text, partition_key from {SCHEMA}.item_texts"):
        assert key == item.partitions.key_of(row_id)


def test_a_suddenly_empty_table_deletes_nothing_unless_told(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(10)])
    item = world.declare()
    world.run(item)
    world.sql("delete from staging.stg_item")

    with pytest.raises(DeletesRefused, match="10 of 10 rows are gone"):
        world.texts(item)
    assert len(world.view()) == 10

    world.run(item, allow_deletes=True)
    assert world.view() == {}


def test_a_refused_pass_is_in_the_ledger_with_what_it_did_before(world: World) -> None:
    world.table("id bigint, name text")
    world.insert(*[(n, f"thing {n}") for n in range(10)])
    item = world.declare()
    world.run(item)
    world.sql("delete from staging.stg_item where id > 0")
    world.insert((20, "new"), (21, "thing 5"))

    with pytest.raises(DeletesRefused):
        world.texts(item, "refused")

    ((read, reused, deleted),) = world.sql(
        f"select read, reused, deleted from {SCHEMA}.run_ledger where run_id = 'refused'"
    )
    assert (read, reused, deleted) == (2, 1, 0)


def test_the_result_has_the_seconds_of_the_ledger(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((1, "Pump"))
    item = world.declare()
    world.texts(item)
    counts = world.vectors(item, "timed").counts
    ((seconds,),) = world.sql(f"select seconds from {SCHEMA}.run_ledger where run_id = 'timed'")
    assert counts.seconds == seconds > 0


def test_a_time_of_change_without_end_is_none(world: World) -> None:
    world.table("id bigint, name text, changed timestamptz")
    world.insert((1, "Pump", "-infinity"), (2, "Hose", "infinity"), (3, "Tap", "2026-01-01"))
    item = world.declare(include=["name"], changed_at="changed")
    world.texts(item)
    assert world.vectors(item, limit=1).counts.encoded == 1
    ((pending,),) = world.sql(f"select pending from {SCHEMA}.entity_coverage")
    assert pending == 2
    with world.postgres.connection() as connection:
        covered = coverage.coverage(world.tables(connection, item), world.sets(item)[0])
    assert sum(part.rows for part in covered) == 3


def test_rows_deleted_removed_or_no_longer_eligible_are_gone(world: World) -> None:
    world.table("id bigint, name text, consent boolean, is_removed boolean")
    world.insert(*[(n, f"thing {n}", True, False) for n in range(8)])
    item = world.declare(include=["name"], where="consent", deleted="is_removed")
    world.run(item)

    world.sql("update staging.stg_item set consent = false where id = 1")
    world.sql("update staging.stg_item set is_removed = true where id = 2")
    world.sql("delete from staging.stg_item where id = 3")
    counts = world.run(item)

    assert counts["deleted"] == 3
    assert sorted(int(row_id) for row_id, _ in world.view()) == [0, 4, 5, 6, 7]


def test_null_ids_are_refused(world: World) -> None:
    world.table("id bigint, name text")
    world.insert((None, "a"), (1, "b"))
    with pytest.raises(ConfigurationError, match="1 rows whose id is null"):
        world.texts(world.declare())


@pytest.mark.parametrize("second", ["same", "another"])
def test_repeated_ids_are_refused_and_named(world: World, second: str) -> None:
    world.table("id bigint, name text")
    world.insert((7, "same"), (8, "b"))
    item = world.declare()
    world.run(item)
    world.insert((7, second))
    with pytest.raises(ConfigurationError, match="more than once, among them '7'"):
        world.texts(item)


def test_equal_ids_in_two_entities_and_partitions_do_not_meet(world: World) -> None:
    world.table("id bigint, name text", name="stg_shoe")
    world.table("id bigint, name text", name="stg_lamp")
    for name in ("shoe", "lamp"):
        world.insert(*[(n, f"{name} {n}") for n in range(40)], name=f"stg_{name}")
    for name in ("shoe", "lamp"):
        entity = world.declare(name)
        world.texts(entity)
        keys = entity.partitions.keys()
        for key in keys:
            world.vectors(entity, keys=[key])
        world.publish(entity)
    for name in ("shoe", "lamp"):
        expected = {(str(n), 0): f"name: {name} {n}" for n in range(40)}
        assert world.view(name) == expected
        world.assert_vectors_are_of_their_texts(name)


def test_naughty_strings_are_ids_and_texts(world: World) -> None:
    world.table("id text, name text")
    strings = naughty_strings()
    world.insert(*[(string, string) for string in strings])

    item = world.declare(template="{name}", filters=["name"])
    world.run(item)

    expected = {(string, 0): string.strip() for string in strings if string.strip()}
    assert world.view() == expected
    assert world.run(item)["read"] == 0
    world.assert_vectors_are_of_their_texts()


def naughty_strings() -> list[str]:
    """The Big List of Naughty Strings (MIT), each once."""
    lines = Path(__file__).parent.parent.joinpath("data", "blns.txt").read_text().split("\n")
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def test_uuid_ids_keep_their_type(world: World) -> None:
    world.table("id uuid, name text")
    world.insert(("11111111-2222-3333-4444-555555555555", "Pump"))
    world.run(world.declare())
    rows = world.sql(f"select pg_typeof(id)::text, id::text from {SCHEMA}.item_embeddings")
    assert rows == [("uuid", "11111111-2222-3333-4444-555555555555")]


def test_days_have_partitions_and_the_future_waits(world: World) -> None:
    world.table("id bigint, name text, created_at timestamptz")
    world.insert(
        (1, "early", "2020-01-01"),
        (2, "in time", "2026-03-01 23:30:00+00"),
        (3, "none", None),
        (4, "future", "2999-01-01"),
    )
    partitions = {"by": "day", "column": "created_at", "start": "2026-01-01"}
    item = world.declare(include=["name"], partitions=partitions)
    world.run(item)

    keys = dict(
        world.sql(f"select id, partition_key from {SCHEMA}.item_texts where text_hash is not null")
    )
    assert keys == {1: "2026-01-01", 2: "2026-03-01", 3: "2026-01-01"}
    assert world.sql(f"select id, stage from {SCHEMA}.quarantine") == [("4", "partition")]

    world.sql("update staging.stg_item set created_at = '2026-03-02' where id = 4")
    world.run(item)
    assert world.sql(f"select id from {SCHEMA}.quarantine") == []
    assert ("4", 0) in world.view()
