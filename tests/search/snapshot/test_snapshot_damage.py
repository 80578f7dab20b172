"""A snapshot that is damaged, or not there, is not opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.search.snapshot import Snapshot
from tests.search.snapshot.conftest import published, write
from tests.support.world import World


@pytest.mark.parametrize("part", ["index", "rows"])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone", "another file"])
def test_a_damaged_file_is_not_opened(
    shop: World, folder: Path, read: Callable[..., Snapshot], part: str, damage: str
) -> None:
    published(shop)
    manifest = write(shop, folder)
    path = folder / getattr(manifest, part).name
    good = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(good[:-100])
    elif damage == "one bit":
        path.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    elif damage == "another file":
        path.write_bytes(bytes(len(good)))
    else:
        path.unlink()
    with pytest.raises(EmbeddingsError) as refused:
        read()
    assert path.name in str(refused.value)


def edit(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_manifest_with_another_checksum_or_a_foreign_path_is_refused(
    shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    published(shop)
    index = write(shop, folder).index.model_dump()
    edit(folder, index={**index, "sha256": "0" * 64})
    with pytest.raises(EmbeddingsError, match="sha256 is not that of the manifest"):
        read()
    edit(folder, index={**index, "name": "../../etc/passwd"})
    with pytest.raises(EmbeddingsError, match=r"manifest in .* is damaged: index\.name"):
        read()
    edit(folder, format=1)
    with pytest.raises(EmbeddingsError, match="another version of embeddings-pipeline: export it"):
        read()
    (folder / "manifest.json").write_text('{"format": 1, "enti')
    with pytest.raises(EmbeddingsError, match="is damaged"):
        read()


def test_a_folder_without_a_snapshot_says_how_to_write_one(
    folder: Path, read: Callable[..., Snapshot]
) -> None:
    with pytest.raises(ConfigurationError, match="export ENTITY --to"):
        read()
