"""A snapshot on disk: an index file, a file of rows, and the manifest that names them.

The manifest is replaced last, in one step, and each export writes files of its own: whoever reads
finds the old snapshot or the new one, whole, and an export that is killed leaves the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.entities.source import IdType
from embeddings_pipeline.errors import ConfigurationError, EmbeddingsError
from embeddings_pipeline.files import lock, sync, write_atomically

Kind = Literal["flat", "ivf", "hnsw"]

_MANIFEST = "manifest.json"
_FILES = ("*.faiss", "*.sqlite", f"{_MANIFEST}.*")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Part):
    """A file beside the manifest."""

    # no path: a manifest can name nothing else
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.(faiss|sqlite)$")]
    bytes: int
    sha256: str


class Manifest(_Part):
    """What a snapshot holds. `count` is that of the vectors, `coverage` the percentage of rows
    that had vectors, `columns` the filter columns and Postgres' types of them; `effort` is efSearch
    or nprobe, None where the index is exact."""

    format: Literal[1] = 1
    entity: str
    id: str
    id_type: IdType
    chunked: bool
    provider: str
    model: str
    revision: str
    max_tokens: int
    normalized: bool
    dimension: int
    vector_set: int
    storage: Literal["vector", "halfvec"]
    metric: Literal["cosine", "l2", "ip"]
    columns: dict[str, str]
    kind: Kind
    effort: int | None
    count: int
    coverage: float
    created_at: datetime
    index: File
    rows: File

    @property
    def identity(self) -> ModelIdentity:
        """The model whose vectors these are, and that encodes queries."""
        return ModelIdentity(
            self.provider,
            self.model,
            self.revision,
            self.dimension,
            self.max_tokens,
            self.normalized,
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for one export.

    Raises ConfigurationError where it cannot be written to or another export holds it.
    """
    busy = f"another export is writing to {folder}"
    with ExitStack() as holds:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holds.enter_context(lock(folder / ".lock", seconds=0, busy=busy))
        except OSError as error:
            raise ConfigurationError(f"a snapshot cannot be written to {folder}: {error}") from None
        yield


def new_path(folder: Path, suffix: Literal["faiss", "sqlite"]) -> Path:
    """Where a file of a new snapshot goes."""
    return folder / f"{uuid4().hex}.{suffix}"


def finished(path: Path) -> File:
    """A file that was written, once it is safe on disk."""
    sync(path)
    return File(name=path.name, bytes=path.stat().st_size, sha256=_sha256(path))


def commit(folder: Path, manifest: Manifest) -> None:
    """Make this the snapshot, then remove what belongs to none."""
    write_atomically(folder / _MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what an export left that was killed, or that was replaced."""
    kept = {_MANIFEST}
    if (folder / _MANIFEST).exists():
        manifest = read_manifest(folder)
        kept |= {manifest.index.name, manifest.rows.name}
    for pattern in _FILES:
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink()


def read_manifest(folder: Path) -> Manifest:
    """Raises ConfigurationError where there is no snapshot, EmbeddingsError where it is damaged."""
    try:
        return Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"there is no snapshot in {folder} ({error.strerror}): write one with"
            f" `embeddings-pipeline export ENTITY --to {folder}`"
        ) from None
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()
        )
        raise EmbeddingsError(f"the manifest in {folder} is damaged: {found}") from None


def verify(folder: Path, file: File) -> Path:
    """The file, unless it is another than what was written. Raises EmbeddingsError then."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise EmbeddingsError(f"{path} is damaged: {size:,} bytes instead of {file.bytes:,}")
        if _sha256(path) != file.sha256:
            raise EmbeddingsError(f"{path} is damaged: its sha256 is not that of the manifest")
    except OSError as error:
        raise EmbeddingsError(f"{path} cannot be read: {error.strerror}") from None
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
