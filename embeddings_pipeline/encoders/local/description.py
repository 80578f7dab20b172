"""Reads the identity of a model from its files, without loading it, and refuses models of kinds
that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from embeddings_pipeline.encoders.local.model_files import (
    AFTER_TRANSFORMER,
    MAY_FOLLOW,
    POSITIONS_AFTER_PADDING,
    POSITIONS_FROM_ZERO,
    STATIC,
    TRANSFORMERS,
    Part,
    config_errors,
    model_settings,
    normalizes_vectors,
    padding_id,
    parts_of,
    pooling_modes,
    read_json,
    transformer_settings,
)
from embeddings_pipeline.encoders.local.weights import (
    TOKEN_VECTORS,
    WEIGHTS,
    revision,
    weight_files,
)
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError

_NO_LIMIT = 2**31 - 1
# edge in pixels for a model that takes images of any size
_ANY_IMAGE = 512


def describe(
    model: str, folder: Path, *, trusted: bool = False, own_prompts: bool = True
) -> ModelIdentity:
    """Return the identity of the model in a folder, at its full dimension.

    Without `own_prompts` the prompts in its files are not used.

    Raises ConfigurationError for weights that are not safetensors, for quantised weights, for a
    model that returns no vector for a text, and for one with unsupported parts that is not
    `trusted`.
    """
    with config_errors(model, folder):
        parts = _checked_parts(model, folder, trusted=trusted)
        first, last = parts[0], parts[-1]
        return ModelIdentity(
            provider="sentence-transformers",
            model=model,
            # a trusted model's own code also decides its vectors
            revision=revision(
                weight_files(model, parts) + (sorted(folder.rglob("*.py")) if trusted else []),
                _encoding_config(folder, parts, own_prompts=own_prompts),
            ),
            dimension=_dimension(model, folder, parts),
            max_tokens=_NO_LIMIT if first.kind == STATIC else _max_tokens(first.folder),
            normalized=normalizes_vectors(last),
        )


def shortened(identity: ModelIdentity, dimension: int | None) -> ModelIdentity:
    """Return the identity of the first `dimension` numbers of a model's vectors; None means all.

    Raises ConfigurationError for a dimension larger than the model's.
    """
    if dimension is not None and dimension > identity.dimension:
        raise ConfigurationError(
            f"model {identity.model!r} has {identity.dimension} dimensions:"
            f" `dimension: {dimension}` is too large"
        )
    return replace(identity, dimension=dimension or identity.dimension)


class Vision(NamedTuple):
    """How a model reads an image: the edge in pixels, and the number of tokens."""

    size: int
    tokens: int


def vision(model: str, folder: Path) -> Vision | None:
    """Return how the model in a folder reads images; None for a text model."""
    with config_errors(model, folder):
        config = parts_of(folder, trusted=True)[0].config
        if "vision_config" not in config:
            return None
        size = int(config["vision_config"].get("image_size", _ANY_IMAGE))
        # one token for each patch and one class token: ViT, arxiv.org/abs/2010.11929
        return Vision(size, (size // int(config["vision_config"].get("patch_size", 16))) ** 2 + 1)


def _checked_parts(model: str, folder: Path, *, trusted: bool) -> list[Part]:
    kind = model_settings(folder).get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ConfigurationError(
            f"model {model!r} in {folder} is a {kind}, which returns no single vector for a text:"
            " choose a SentenceTransformer"
        )
    found = parts_of(folder, trusted=trusted)
    kinds = [part.kind for part in found]
    if not trusted and (kinds[0] not in MAY_FOLLOW or set(kinds[1:]) - MAY_FOLLOW[kinds[0]]):
        # only a part of another package has a dot in its name
        own_code = any("." in kind for kind in kinds)
        raise ConfigurationError(
            f"model {model!r} in {folder} has the parts {', '.join(kinds)}; supported is a"
            f" Transformer followed by any of {', '.join(sorted(AFTER_TRANSFORMER))}, or a"
            " StaticEmbedding followed by Normalize: "
            + (
                "to run the model's own code, name the model in EMBEDDING_TRUST_REMOTE_CODE"
                if own_code
                else "choose another model"
            )
        )
    if kinds[0] in TRANSFORMERS:
        _require_transformer_of_vectors(model, found[0])
    return found


def _require_transformer_of_vectors(model: str, transformer: Part) -> None:
    if task := transformer_settings(transformer.folder).get("transformer_task"):
        raise ConfigurationError(
            f"model {model!r} in {transformer.folder} is for the task {task!r}, not for vectors:"
            " choose another model"
        )
    adapter = read_json(transformer.folder / "adapter_config.json")
    if adapter:
        raise ConfigurationError(
            f"model {model!r} in {transformer.folder} is an adapter of"
            f" {adapter.get('base_model_name_or_path')!r}: merge it into that model (in peft,"
            " merge_and_unload), and set EMBEDDING_MODEL_PATH to the folder of the result"
        )
    if not (transformer.folder / "config.json").exists():
        raise ConfigurationError(
            f"model {model!r} in {transformer.folder} has no config.json: download the model again"
        )
    if quantised := transformer.config.get("quantization_config"):
        raise ConfigurationError(
            f"model {model!r} in {transformer.folder} has quantised weights"
            f" ({quantised.get('quant_method')}): choose the model that they were made from"
        )


def _encoding_config(folder: Path, parts: Sequence[Part], *, own_prompts: bool) -> dict[str, Any]:
    """Return the settings beside the weights that decide the vectors: prompts, pooling and case.

    Settings that have the usual value are left out.
    """
    settings = model_settings(folder)
    prompts = {name: text for name, text in (settings.get("prompts") or {}).items() if text}
    default = settings.get("default_prompt_name")
    pooling = [pooling_modes(part.config) for part in parts if part.kind == "Pooling"]
    lower = transformer_settings(parts[0].folder).get("do_lower_case")
    config = {
        "prompts": [prompts, default] if prompts and own_prompts else None,
        "pooling": pooling if pooling not in ([], [["mean"]]) else None,
        "lower_case": lower or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def _dimension(model: str, folder: Path, parts: Sequence[Part]) -> int:
    full = _full_dimension(model, parts)
    return min(full, int(model_settings(folder).get("truncate_dim") or full))


def _full_dimension(model: str, parts: Sequence[Part]) -> int:
    for part in reversed(parts):
        config = part.config
        if part.kind == "Dense":
            return int(config["out_features"])
        if part.kind == "Pooling":
            # word_embedding_dimension is the older name
            size = config.get("embedding_dimension") or config["word_embedding_dimension"]
            return int(size) * len(pooling_modes(config))
        if part.kind == STATIC:
            return _static_dimension(part.folder / WEIGHTS)
        if part.kind in TRANSFORMERS:
            sizes = ["hidden_size", "d_model", "dim", "n_embd"]
            if "vision_config" in config:
                # the dimension of the space that texts and images share
                config = config.get("text_config", {}) | config
                sizes.insert(0, "projection_dim")
            for key in sizes:
                if config.get(key):
                    return int(config[key])
    raise ConfigurationError(
        f"model {model!r}: {parts[0].folder / 'config.json'} has no hidden_size"
    )


def _static_dimension(weights: Path) -> int:
    with safe_open(weights, framework="np") as file:
        (name,) = set(TOKEN_VECTORS) & set(file.keys())
        return int(file.get_slice(name).get_shape()[1])


def _max_tokens(transformer: Path) -> int:
    """Return the most tokens that the model reads: by the rules of sentence-transformers, and no
    more than the model has positions."""
    config = read_json(transformer / "config.json")
    # the older name is GPT-2's
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    family = config.get("model_type")
    padding = padding_id(config)
    if positions and padding is not None:
        positions -= padding + 1
    settings = transformer_settings(transformer)
    # the older name of the settings of a tokenizer comes first in sentence-transformers, too
    tokenizer = settings.get("tokenizer_args") or settings.get("processor_kwargs") or {}
    declared = tokenizer.get("model_max_length") or settings.get("max_seq_length")
    if declared and family not in POSITIONS_AFTER_PADDING | POSITIONS_FROM_ZERO:
        return int(declared)
    limits = [
        declared or read_json(transformer / "tokenizer_config.json").get("model_max_length"),
        positions,
        config.get("text_config", {}).get("max_position_embeddings"),
    ]
    # a tokenizer without a limit has 10^30, xlnet has -1
    return min([int(limit) for limit in limits if limit and limit > 0] + [_NO_LIMIT])
