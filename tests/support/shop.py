"""A small shop to search in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.databases import Templates
from tests.support.world import World

SHOP = (
    (1, "red shoe", "shoe", 40, True),
    (2, "blue shoe for running", "shoe", 60, True),
    (3, "blue lamp", "lamp", 25, False),
    (4, "red lamp for reading", "lamp", None, True),
    (5, "running water pump", None, 300, True),
)


def declared(world: World, **keys: Any) -> Any:
    return world.declare(**{"template": "{name}", "filters": ["kind", "price", "is_active"]} | keys)


def publish(world: World) -> None:
    world.table("id bigint, name text, kind text, price numeric(8, 2), is_active boolean")
    world.insert(*SHOP)
    world.run(declared(world))


@pytest.fixture
def shop(world: World, templates: Templates) -> World:
    templates.restore(world, publish)
    return world
