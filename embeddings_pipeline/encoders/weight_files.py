"""Finds the very files that the weights of a model are loaded from, and their sums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import write_atomically

_WEIGHTS = "model.safetensors"


def weight_files(model: str, folder: Path, *, sharded: bool) -> list[Path]:
    """The weights in the folder of a part of a model; only those of a transformer may be `sharded`.

    Raises ConfigurationError where they are not there: what loads them would take pickled ones.
    """
    index = folder / f"{_WEIGHTS}.index.json"
    names = {_WEIGHTS}
    if sharded and not (folder / _WEIGHTS).is_file() and index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise ConfigurationError(
            f"model {model!r} has no safetensors weights in {folder}"
            f" ({', '.join(missing) or index.name} is missing); others are not loaded, since"
            " unpickling runs code"
        )
    return sorted(folder / name for name in names)


def revision(weights: Sequence[Path], manner: Mapping[str, Any] | None = None) -> str:
    """sha256 of the weights; where there are several files, or a `manner` of their use that most
    models do not have, of the files' sums in order and of that."""
    sums = [_sha256(path, path.stat().st_mtime_ns) for path in weights]
    if manner:
        sums.append(json.dumps(manner, sort_keys=True))
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


@lru_cache
def _sha256(path: Path, changed_at: int) -> str:
    """The sum of a file, remembered between processes: of 90 MB it takes longer than a run in which
    nothing changed. A file that changes gets another size or time."""
    remembered = _sums_folder() / hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    state = f"{path.stat().st_size} {changed_at} "
    with suppress(OSError, ValueError):
        known = remembered.read_text()
        if known.startswith(state):
            return known.removeprefix(state)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(remembered, state + found)
    return found


def _sums_folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "embeddings-pipeline" / "weights"
