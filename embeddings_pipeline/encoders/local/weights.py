"""The files of a model's weights, and the revision that they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from embeddings_pipeline.encoders.local.model_files import STATIC, TRANSFORMERS, Part, read_json
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.settings import user_cache_dir

WEIGHTS = "model.safetensors"
# the vectors of tokens in the weights of a static model: by sentence-transformers, by model2vec
TOKEN_VECTORS = ("embedding.weight", "embeddings")
_WITH_WEIGHTS = {"Dense", "LayerNorm", STATIC} | TRANSFORMERS
# weights in other forms, which an error names
_OTHER_FORMS = {".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth"}


def weight_files(model: str, parts: Sequence[Part]) -> list[Path]:
    """Return the weight files of a model's parts.

    Raises ConfigurationError where they are missing: the loader would fall back to pickled weights.
    """
    return [path for part in parts if part.kind in _WITH_WEIGHTS for path in _files_of(model, part)]


def _files_of(model: str, part: Part) -> list[Path]:
    index = part.folder / f"{WEIGHTS}.index.json"
    names = {WEIGHTS}
    # only a transformer's weights may be in several files
    if part.kind in TRANSFORMERS and not (part.folder / WEIGHTS).is_file() and index.is_file():
        names = set(read_json(index)["weight_map"].values())
    missing = sorted(name for name in names if not (part.folder / name).is_file())
    if missing and names != {WEIGHTS}:
        raise ConfigurationError(
            f"model {model!r} is incomplete: {', '.join(missing)} is missing in {part.folder}:"
            " download the model again"
        )
    if missing or not names:
        others = sorted(path.name for path in part.folder.rglob("*") if path.suffix in _OTHER_FORMS)
        raise ConfigurationError(
            f"model {model!r} has no safetensors weights in {part.folder} ({WEIGHTS} is missing"
            f"{'; there is ' + ', '.join(others) if others else ''}): pickled weights are not"
            " loaded, since unpickling runs code, nor those for other libraries; choose a model"
            " with safetensors, or convert this one as docs/models.md says"
        )
    return sorted(part.folder / name for name in names)


def require_readable(weights: Sequence[Path]) -> None:
    """Raise ConfigurationError for a file that is damaged, or whose download was cut short."""
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise ConfigurationError(
                f"the model in {path.parent} cannot be loaded: {path.name} is damaged or incomplete"
                f" ({error}): download the model again"
            ) from None


def revision(weights: Sequence[Path], encoding_config: Mapping[str, Any] | None = None) -> str:
    """Return the sha256 of the weights, in hex.

    With several files or an `encoding_config`, returns the sha256 of the files' sums in order
    followed by the config as JSON.
    """
    sums = [_sha256(path, path.stat().st_mtime_ns) for path in weights]
    if encoding_config:
        sums.append(json.dumps(encoding_config, sort_keys=True))
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


@lru_cache
def _sha256(path: Path, changed_at: int) -> str:
    """Return the sha256 of a file, and keep it for later processes.

    Hashing 90 MB takes longer than a run in which nothing changed. A kept sum is valid while the
    file has the same size and modification time.
    """
    kept = user_cache_dir() / "weights" / hashlib.sha256(bytes(path.resolve())).hexdigest()
    state = f"{path.stat().st_size} {changed_at} "
    with suppress(OSError, ValueError):
        known = kept.read_text()
        if known.startswith(state):
            return known.removeprefix(state)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, state + found)
    return found
