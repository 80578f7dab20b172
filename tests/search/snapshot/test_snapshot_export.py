"""A snapshot is of one moment, and is never seen half written."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.store.search import snapshots as store_export
from embeddings_pipeline.sync.progress import Progress
from embeddings_pipeline.sync.snapshot import export
from tests.search.snapshot.conftest import files, published, search, write
from tests.support.world import SCHEMA, World


def test_a_new_snapshot_takes_the_place_of_the_old_one_and_leaves_nothing(
    published_shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    first = write(published_shop, folder)
    former = read()
    published_shop.sql("update staging.stg_item set name = 'a purple cow' where id = 7")
    published(published_shop)
    second = write(published_shop, folder)
    assert files(folder) == sorted([".lock", "manifest.json", second.index.name, second.rows.name])
    assert first.index.name != second.index.name
    assert search(read(), "purple cow").results[0].id == "7"
    # who has the old one open goes on with it
    assert search(former, "purple cow").results[0].text != "a purple cow"


# writes a snapshot, and is killed when the files are half or wholly written, but not yet named
_KILLED = """
import os, signal, sys
from pathlib import Path
from pydantic import SecretStr
from embeddings_pipeline.database import Database
from embeddings_pipeline.store.search import snapshots
from embeddings_pipeline.store.connection import Postgres
from embeddings_pipeline.sync import snapshot
from embeddings_pipeline.sync.snapshot import export
folder, at, host, port, name, user, password = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
snapshots.BATCH_ROWS = 100
if at == "files": snapshot._sha256 = die
if at == "manifest": snapshot.remove_leftovers = lambda folder: None; Path.replace = die
report = die if at == "rows" else lambda progress: None
database = Postgres(Database(host, int(port), name, user, SecretStr(password)))
export(database, "analytics_features", "item", Path(folder), "flat", report)
"""


@pytest.mark.parametrize("at", ["rows", "files", "manifest"])
def test_an_export_that_is_killed_leaves_the_old_snapshot(
    published_shop: World, folder: Path, read: Callable[..., Snapshot], at: str
) -> None:
    first = write(published_shop, folder)
    where = published_shop.database
    killed = subprocess.run(
        [
            *(sys.executable, "-c", _KILLED, str(folder), at, where.host, str(where.port)),
            *(where.name, where.user, where.password.get_secret_value()),
        ],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(files(folder)) > 4
    assert read().manifest == first
    assert len(search(read(), "red thing").results) == 10
    # and the next export removes what it left
    second = write(published_shop, folder)
    assert files(folder) == sorted([".lock", "manifest.json", second.index.name, second.rows.name])


def test_two_exports_to_one_folder_do_not_meet(published_shop: World, folder: Path) -> None:
    met: list[str] = []

    def another(progress: Progress) -> None:
        try:
            write(published_shop, folder)
        except ConfigurationError as error:
            met.append(str(error))

    write(published_shop, folder, report=another)
    assert met
    assert "another export is writing" in met[0]


def test_a_snapshot_is_of_one_moment(
    published_shop: World,
    folder: Path,
    read: Callable[..., Snapshot],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_export, "BATCH_ROWS", 50)
    told: list[Progress] = []

    def change(progress: Progress) -> None:
        if not told:
            published_shop.sql("delete from staging.stg_item where id >= 300")
            published_shop.texts(
                published_shop.declare(
                    template="{name}", filters=["color", "price", "active", "day", "seen"]
                ),
                allow_deletes=True,
            )
        told.append(progress)

    assert write(published_shop, folder, report=change).count == 400
    assert (told[-1].done, told[-1].pending, told[-1].unit) == (400, 400, "vectors")
    assert published_shop.sql(f"select count(*) from {SCHEMA}.item_vectors_1") == [(300,)]


def test_a_set_without_vectors_is_not_exported(world: World, folder: Path) -> None:
    world.table("id bigint, name text")
    world.insert((1, "pump"))
    world.run(world.declare())
    world.sql(f"delete from {SCHEMA}.item_vectors_1")
    with pytest.raises(EmbeddingsError, match="no vectors to export"):
        write(world, folder)
    with pytest.raises(ConfigurationError, match="published: item"):
        export(world.postgres, SCHEMA, "other", folder)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "embeddings_pipeline.sync.snapshot"
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigurationError, match=r"embeddings-pipeline\[faiss\]"):
        importlib.import_module(module)
