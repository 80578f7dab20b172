"""An entity whose declaration is gone: what the status says of it, and how it is removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embeddings_pipeline.cli.main import app
from embeddings_pipeline.settings import DEFAULT_MODEL
from tests.support.declared import use_manifest, write_manifest
from tests.support.world import SCHEMA, World


@pytest.fixture
def renamed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The entity `item`, run once, and its model declared under another name since."""
    use_manifest(monkeypatch, world, tmp_path)
    world.table("id bigint, name text")
    world.insert((0, "a red shoe"), (1, "a blue lamp"))
    declare(tmp_path)
    command("run", "item")
    declare(tmp_path, entity="thing")
    return world


def declare(folder: Path, **keys: str) -> None:
    write_manifest(folder / "manifest.json", template="{name}", model=DEFAULT_MODEL, **keys)


def command(*arguments: str) -> Result:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exception is None, result.exception
    return result


def test_the_status_names_an_entity_that_no_model_declares_until_it_is_empty(
    renamed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remark = "item: no model of this project declares it any more; its 2 rows stay as they are"
    assert remark in command("status").stderr

    declare(tmp_path, where="false")
    monkeypatch.setenv("EMBEDDING_CACHE_GRACE", "0")
    command("run", "item", "--allow-deletes")
    declare(tmp_path, entity="thing")

    assert "item" not in command("status").stderr
    left = "select count(*) from {0}.item_texts", "select count(*) from {0}.embedding_cache_1"
    assert [renamed.sql(query.format(SCHEMA)) for query in left] == [[(0,)], [(0,)]]


def test_one_whose_tables_are_broken_hides_no_other_entity(renamed: World, tmp_path: Path) -> None:
    command("run", "thing")
    renamed.sql(f"alter table {SCHEMA}.item_texts drop column text_hash cascade")
    shown = command("status")
    assert "item: no model of this project declares it any more, and its state" in shown.stderr
    assert "thing" in shown.stdout


def test_the_status_tells_that_an_id_of_another_type_is_refused(
    renamed: World, tmp_path: Path
) -> None:
    declare(tmp_path)
    renamed.sql("alter table staging.stg_item alter column id type text")
    result = CliRunner().invoke(app, ["status"])
    assert "its id was id (bigint) and is now id (text)" in str(result.exception)
    assert "wrong" in result.stdout


def test_another_name_of_the_same_rows_encodes_nothing(renamed: World) -> None:
    assert '"encoded": 0, "reused": 2' in command("run", "thing", "--json").stdout


@pytest.fixture
def emptied(renamed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The entity `item` without rows, and not declared any more."""
    declare(tmp_path, where="false")
    command("run", "item", "--allow-deletes")
    declare(tmp_path, entity="thing")
    return renamed


def relations(world: World) -> list[str]:
    found = world.sql(
        "select relname from pg_class where relnamespace = %s::regnamespace and relname like %s"
        " union select proname from pg_proc where proname like %s order by 1",
        *(SCHEMA, "item%", "search_item"),
    )
    return [name for (name,) in found if not name.endswith(("_pkey", "_idx"))]


def test_an_empty_entity_that_no_model_declares_is_dropped(emptied: World) -> None:
    command("run", "thing")
    kept = relations(emptied)
    shown = command("db", "drop", "item", "--dry-run").stdout
    assert "would drop item_embeddings, search_item, item_vectors_1, item_texts" in shown
    assert relations(emptied) == kept

    command("db", "drop", "item")

    assert relations(emptied) == []
    assert emptied.sql(f"select entity from {SCHEMA}.entity_coverage") == [("thing",)]
    # the grace of the cache would have kept the vectors that another entity has, alone
    assert emptied.sql(f"select count(*) from {SCHEMA}.embedding_cache_1") == [(2,)]
    command("run", "thing")


def test_the_only_entity_is_dropped_and_comes_back(emptied: World, tmp_path: Path) -> None:
    command("db", "drop", "item")
    assert emptied.sql(f"select count(*) from {SCHEMA}.embedding_cache_1") == [(0,)]
    declare(tmp_path)
    assert '"encoded": 2' in command("run", "item", "--json").stdout


def test_an_entity_that_is_declared_or_has_rows_is_not_dropped(
    renamed: World, tmp_path: Path
) -> None:
    kept = relations(renamed)
    assert "entity 'item' has 2 rows: empty it first" in refusal("db", "drop", "item")
    assert "there is no entity 'itme' (entities: item)" in refusal("db", "drop", "itme")
    declare(tmp_path, where="false")
    command("run", "item", "--allow-deletes")
    assert "entity 'item' is declared" in refusal("db", "drop", "item")
    assert relations(renamed) == kept


def test_nothing_is_dropped_while_something_depends_on_the_view(emptied: World) -> None:
    emptied.sql(f"create view mart as select id from {SCHEMA}.item_embeddings")
    kept = relations(emptied)
    assert "view mart depends on view" in refusal("db", "drop", "item")
    assert relations(emptied) == kept


def refusal(*arguments: str) -> str:
    return str(CliRunner().invoke(app, [*arguments]).exception)
