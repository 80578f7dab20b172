"""Rows of a shop, and a snapshot that is written of them and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.search.query_vectors import query_encoder
from embeddings_pipeline.search.requests import Answer, SearchRequest
from embeddings_pipeline.search.snapshot import Snapshot
from embeddings_pipeline.settings import Settings
from embeddings_pipeline.sync.snapshot import Manifest, export
from tests.support.databases import Templates
from tests.support.world import SCHEMA, World

COLORS = ("red", "blue", "green", "black")
ROWS = [
    (n, f"{COLORS[n % 4]} thing {n} of {n % 17}", COLORS[n % 4], n if n % 5 else None, n % 3 == 0)
    for n in range(400)
]


@pytest.fixture
def shop(world: World) -> World:
    """Rows with a column of each type that filters take; one is longer than a chunk."""
    fill(world)
    return world


@pytest.fixture
def published_shop(world: World, templates: Templates) -> World:
    """The same rows, published."""
    templates.restore(world, publish_rows)
    return world


def publish_rows(world: World) -> None:
    fill(world)
    published(world)


def fill(world: World) -> None:
    world.table(
        "id bigint, name text, color text, price numeric(8, 2), active boolean,"
        " day date generated always as (date '2026-01-01' + (id % 9)::int) stored,"
        " seen timestamptz default '2026-01-01T00:00:00Z'"
    )
    with world.postgres.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into staging.stg_item (id, name, color, price, active)"
            " values (%s, %s, %s, %s, %s)",
            ROWS,
        )
    world.sql("update staging.stg_item set seen = seen + (id % 9) * interval '1 day'")


def published(world: World, **keys: Any) -> None:
    declared = {
        "template": "{name}",
        "filters": ["color", "price", "active", "day", "seen"],
        "index": {"type": "none"},
    }
    world.run(world.declare(**{**declared, **keys}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"


def write(world: World, folder: Path, kind: Any = "flat", **options: Any) -> Manifest:
    return export(world.postgres, SCHEMA, "item", folder, kind, **options)


@pytest.fixture
def read(world: World, folder: Path) -> Iterator[Callable[..., Snapshot]]:
    """Opens the snapshot with these settings."""
    opened: list[Snapshot] = []

    def open_snapshot(**settings: Any) -> Snapshot:
        given = Settings(_env_file=None, **settings)
        opened.append(Snapshot(folder, given, query_encoder(world.encoders)))
        return opened[-1]

    yield open_snapshot
    for snapshot in opened:
        snapshot.close()


def search(snapshot: Snapshot, query: str, **keys: Any) -> Answer:
    return snapshot.search(SearchRequest.of(entity="item", query=query, **keys))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
