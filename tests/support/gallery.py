"""An entity of images with a small model of CLIP's architecture, for searches by an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.settings import Settings
from tests.support.pictures import data_uri, file_of, picture
from tests.support.world import World

RED, BLUE, GREEN = (file_of(picture(colour)) for colour in ("red", "blue", "green"))


def clip_settings(clip: Path) -> dict[str, Any]:
    """Settings of a process whose model is that of `clip`."""
    return {
        "embedding_model": "some/clip",
        "embedding_model_path": clip / "plain",
        "embedding_device": "cpu",
        # an image alone has the vector that it has among others
        "embedding_precision": "float32",
    }


def encoders_of(clip: Path) -> Encoders:
    return Encoders(Settings(_env_file=None, **clip_settings(clip)))


def publish_gallery(world: World, clip: Path) -> None:
    """Three pictures, each in its row as a data: URI with its colour to filter by."""
    world.encoders = encoders_of(clip)
    world.table("id bigint, image text, colour text", name="stg_photo")
    rows = [(1, RED, "red"), (2, BLUE, "blue"), (3, GREEN, "green")]
    world.insert(*((row_id, data_uri(data), name) for row_id, data, name in rows), name="stg_photo")
    world.run(world.declare("photo", image="image", filters=["colour"]))
    world.encoders.cleanup()
