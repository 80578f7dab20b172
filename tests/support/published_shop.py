"""Five items of a shop, and the run that publishes them."""

from __future__ import annotations

from typing import Any

from tests.support.world import World

ROWS = [
    (1, "red shoe", "footwear", 40.0),
    (2, "blue lamp", "light", 25.5),
    (3, "green garden hose", "garden", 19.9),
    (4, "red boots of leather", "footwear", 90.0),
    (5, "garden lamp", "light", None),
]


def publish_shop(world: World, /, **keys: Any) -> None:
    """Make a staging table of the rows, and run its entity."""
    world.table("id bigint, name text, category text, price float8, is_removed boolean")
    world.insert(*((*row, False) for row in ROWS))
    declared: dict[str, Any] = {
        "include": ["name"],
        "filters": ["category", "price"],
        "deleted": "is_removed",
    }
    world.run(world.declare(**declared, **keys))
