"""A snapshot that is damaged, or not there, is not opened."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import pytest

from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.search.snapshot import Snapshot
from tests.search.snapshot.conftest import search, write
from tests.support.world import World

pytestmark = pytest.mark.long


@pytest.mark.parametrize("part", ["index", "rows"])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone", "another file"])
def test_a_damaged_file_is_not_opened(
    published_shop: World, folder: Path, read: Callable[..., Snapshot], part: str, damage: str
) -> None:
    manifest = write(published_shop, folder)
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
    published_shop: World, folder: Path, read: Callable[..., Snapshot]
) -> None:
    index = write(published_shop, folder).index.model_dump()
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


def replaced(folder: Path, part: str, content: bytes) -> Path:
    """Another content of a file, whose size and sum the manifest has."""
    manifest = json.loads((folder / "manifest.json").read_text())
    path: Path = folder / manifest[part]["name"]
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, **{part: {"name": path.name, "bytes": len(content), "sha256": digest}})
    return path


def rewritten(path: Path, *statements: str) -> bytes:
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(copy, isolation_level=None)) as file:
        for statement in statements:
            file.execute(statement)
    return copy.read_bytes()


# rows are the same beside each kind of index
@pytest.mark.parametrize(
    ("part", "kind"), [("index", "flat"), ("index", "ivf"), ("index", "hnsw"), ("rows", "flat")]
)
def test_a_file_that_is_none_is_one_clear_error_though_its_sum_is_right(
    published_shop: World, folder: Path, read: Callable[..., Snapshot], part: str, kind: str
) -> None:
    manifest = write(published_shop, folder, kind)
    good = (folder / getattr(manifest, part).name).read_bytes()
    # the numbers of an index stand in its first hundred bytes: many are taken for a size
    flipped = [
        good[:place] + bytes([good[place] ^ 0x7F]) + good[place + 1 :] for place in range(0, 100, 3)
    ]
    for bad in (b"", b"IxF2", bytes(5000), good[:50], good[: len(good) // 2], *flipped):
        path = replaced(folder, part, bad)
        said = f"{path} is damaged"
        try:
            with read() as snapshot:
                search(snapshot, "red", filters={"color": "red"})
            # some bytes mean nothing to a reader
            assert len(bad) == len(good)
        except EmbeddingsError as refused:
            said = str(refused)
        assert said.startswith(f"{path} is damaged")


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_an_index_of_another_snapshot_is_refused(
    published_shop: World, folder: Path, read: Callable[..., Snapshot], kind: str
) -> None:
    manifest = write(published_shop, folder, kind)
    index = faiss.read_index(str(folder / manifest.index.name))
    index.reset()
    others = [
        (index, "vectors 0 instead of 400"),
        (faiss.IndexLSH(8, 8), "IndexLSH instead of"),
    ]
    if kind == "flat":
        short = faiss.IndexFlat(3, faiss.METRIC_INNER_PRODUCT)
        others.append((short, "dimension 3 instead of"))
    if kind == "hnsw":
        linked = faiss.read_index(str(folder / manifest.index.name))
        links = faiss.vector_to_array(linked.hnsw.neighbors)
        links[5] = 1 << 30
        faiss.copy_array_to_vector(links, linked.hnsw.neighbors)
        others.append((linked, "RuntimeError .*HNSW"))
    for other, says in others:
        faiss.write_index(other, str(folder / "other"))
        replaced(folder, "index", (folder / "other").read_bytes())
        with pytest.raises(EmbeddingsError, match=f"is damaged .{says}.*: export the entity again"):
            read()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("drop table rows", "no such table"),
        ("alter table rows drop column norm", "no such column: norm"),
        ("drop index by_c1", "no such column: c1"),
        ("delete from rows where number = 7", r"rows \(399, 0, 399\) instead of 400"),
        ("update rows set number = 1000 where number = 0", r"rows \(400, 1, 1000\)"),
        ("update rows set fields = '{'", "Expecting property name"),
        ("update rows set fields = null", "NoneType"),
        ("update rows set text = cast(x'ff' as text)", "UTF-8"),
    ],
)
def test_rows_that_are_not_those_of_the_manifest_are_refused(
    published_shop: World, folder: Path, read: Callable[..., Snapshot], statement: str, says: str
) -> None:
    path = folder / write(published_shop, folder).rows.name
    statements = [statement]
    if "by_c1" in statement:
        statements.append("alter table rows drop column c1")
    replaced(folder, "rows", rewritten(path, *statements))
    with pytest.raises(EmbeddingsError, match=f"is damaged .*{says}.*: export the entity again"):
        search(read(), "red")
