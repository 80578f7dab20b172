"""Loads a local model in the way that suits it, and says why one cannot be loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embeddings_pipeline.encoders.local.devices import dtype_for
from embeddings_pipeline.encoders.local.loaded_model import LoadedModel
from embeddings_pipeline.encoders.local.model_files import is_static, parts_of
from embeddings_pipeline.encoders.local.plain_bert import PlainBert, is_plain_bert
from embeddings_pipeline.encoders.local.sentence_transformers import SentenceTransformersModel
from embeddings_pipeline.encoders.local.static_embedding import StaticEmbedding
from embeddings_pipeline.encoders.local.weights import require_readable, weight_files
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalOptions:
    """How a local model computes: EMBEDDING_DEVICE, EMBEDDING_PRECISION, EMBEDDING_CPU_KERNELS,
    and the most texts and tokens (with any padding) in one batch; None leaves them to the model. A
    `trusted` model may run its own code. Without `own_prompts` the prompts in its files are not
    used."""

    device: str = "auto"
    precision: str = "auto"
    kernels: str = "auto"
    batch_texts: int | None = None
    batch_tokens: int | None = None
    trusted: bool = False
    own_prompts: bool = True


def load_model(
    identity: ModelIdentity, folder: Path, options: LocalOptions, device: str
) -> LoadedModel:
    """Return the model in a folder, loaded onto a device.

    Raises ConfigurationError where it cannot be loaded, or fails on every text.
    """
    parts = parts_of(folder, trusted=options.trusted)
    try:
        require_readable(weight_files(identity.model, parts))
        return _load(identity, folder, options, device)
    except ConfigurationError:
        raise
    # corrupt weights, unknown parts and missing packages raise different classes
    except Exception as error:
        named = f"model {identity.model!r} in {folder}"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if "auto_map" in parts[0].config and not options.trusted:
            raise ConfigurationError(
                f"{named} has code of its own, which is not run: if you trust it, name the model in"
                f" EMBEDDING_TRUST_REMOTE_CODE ({reason})"
            ) from error
        raise ConfigurationError(f"{named} cannot be loaded: {reason}") from error


def _load(identity: ModelIdentity, folder: Path, options: LocalOptions, device: str) -> LoadedModel:
    if is_static(folder):
        logger.info("loading %s", identity.model)
        return StaticEmbedding(folder, identity.dimension)

    def load(dtype: torch.dtype) -> LoadedModel:
        logger.info("loading %s on %s as %s", identity.model, device, dtype)
        if is_plain_bert(folder):
            return PlainBert(identity, folder, device=device, dtype=dtype, kernels=options.kernels)
        return SentenceTransformersModel(
            folder,
            max_tokens=identity.max_tokens,
            device=device,
            dtype=dtype,
            trusted=options.trusted,
            own_prompts=options.own_prompts,
        )

    dtype, exact = (dtype_for(precision, device) for precision in (options.precision, "float32"))
    try:
        return load(dtype)
    # some architectures have operations that bfloat16 does not have
    except RuntimeError as error:
        if options.precision != "auto" or "BFloat16" not in str(error):
            raise
        model = load(exact)
        logger.warning("%s runs as %s: as %s, %s", identity.model, exact, dtype, error)
        return model
