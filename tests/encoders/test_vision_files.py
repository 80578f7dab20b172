"""What the files of a model that sees images say of it."""

from __future__ import annotations

import pytest

from embeddings_pipeline.encoders.local.description import Vision, vision
from embeddings_pipeline.errors import ConfigurationError
from tests.support.model_folder import Folder, folder

__all__ = ["folder"]


def test_a_model_that_sees_with_malformed_files_is_named(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8, vision_config={"patch_size": 0})
    with pytest.raises(ConfigurationError, match="do not describe a model"):
        vision("some/model", folder.path)


CLIP = {
    "projection_dim": 512,
    "text_config": {"hidden_size": 768, "max_position_embeddings": 77},
    "vision_config": {"hidden_size": 1024, "image_size": 224, "patch_size": 32},
}


@pytest.mark.parametrize("kind", ["Transformer", "CLIPModel"])
def test_a_model_that_sees_is_as_large_as_its_projection(folder: Folder, kind: str) -> None:
    identity = folder.part(kind, **CLIP).describe()
    assert (identity.dimension, identity.max_tokens, identity.normalized) == (512, 77, False)


def test_without_a_projection_the_texts_size_counts(folder: Folder) -> None:
    assert (
        folder.part("Transformer", **(CLIP | {"projection_dim": None})).describe().dimension == 768
    )


def test_an_image_becomes_a_token_for_each_patch_and_one_for_the_whole(folder: Folder) -> None:
    assert vision("some/model", folder.part("Transformer", **CLIP).path) == Vision(224, 50)


def test_a_model_of_any_image_has_sizes_taken_for_it(folder: Folder) -> None:
    folder.part("Transformer", hidden_size=8, vision_config={})
    assert vision("some/model", folder.path) == Vision(512, 1025)


def test_a_model_of_text_sees_nothing(folder: Folder) -> None:
    assert vision("some/model", folder.path) is None
