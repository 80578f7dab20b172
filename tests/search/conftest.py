"""A published entity, and the service over it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.search.serving import served
from tests.world import World

ROWS = [
    (1, "red shoe", "footwear", 40.0),
    (2, "blue lamp", "light", 25.5),
    (3, "green garden hose", "garden", 19.9),
    (4, "red boots of leather", "footwear", 90.0),
    (5, "garden lamp", "light", None),
]


def publish_shop(world: World) -> None:
    """Make a staging table of the rows, and run its entity."""
    world.table("id bigint, name text, category text, price float8, is_removed boolean")
    world.insert(*((*row, False) for row in ROWS))
    world.run(world.declare(include=["name"], filters=["category", "price"], deleted="is_removed"))


@pytest.fixture
def shop(world: World) -> World:
    """Five items, published."""
    publish_shop(world)
    return world


@pytest.fixture
def client(shop: World) -> Iterator[httpx.Client]:
    """A client of the service, which has no keys."""
    with served(shop.database, shop.encoder) as client:
        yield client
