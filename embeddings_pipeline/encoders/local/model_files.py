"""Reads the identity of a sentence-transformers model from its files, without loading the model,
and finds the files of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.entities.model import ModelIdentity
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.files import write_atomically
from embeddings_pipeline.settings import user_cache_dir

# CLIPModel is the class name in the first image models
_TRANSFORMERS = {"Transformer", "CLIPModel"}
_STATIC = "StaticEmbedding"
_AFTER_TRANSFORMER = {"Pooling", "Dense", "LayerNorm", "Dropout", "Normalize"}
_MAY_FOLLOW = dict.fromkeys(_TRANSFORMERS, _AFTER_TRANSFORMER) | {_STATIC: {"Normalize"}}
_WITH_WEIGHTS = {"Dense", "LayerNorm", _STATIC} | _TRANSFORMERS
_OURS = "sentence_transformers."
_NO_LIMIT = 2**31 - 1
# edge in pixels for a model that takes images of any size
_ANY_IMAGE = 512


class Vision(NamedTuple):
    """How a model reads an image: the edge in pixels, and the number of tokens."""

    size: int
    tokens: int


def describe(
    model: str,
    folder: Path,
    dimension: int | None,
    *,
    trusted: bool = False,
    own_prompts: bool = True,
) -> ModelIdentity:
    """Return the identity of the model in a folder; `dimension` shortens its vectors.

    Without `own_prompts` the prompts in its files are not used.

    Raises ConfigurationError for pickled weights, for a dimension larger than the model's, and for
    a model with unsupported parts that is not `trusted`.
    """
    with _config_errors(model, folder):
        parts = _checked_parts(model, folder, trusted=trusted)
        full = _dimension(model, parts)
        if dimension is not None and dimension > full:
            raise ConfigurationError(
                f"model {model!r} has {full} dimensions: `dimension: {dimension}` is too large"
            )
        return ModelIdentity(
            provider="sentence-transformers",
            model=model,
            # a trusted model's own code also decides its vectors
            revision=revision(
                _weights(model, parts) + (sorted(folder.rglob("*.py")) if trusted else []),
                _encoding_config(folder, parts, own_prompts=own_prompts),
            ),
            dimension=dimension or full,
            max_tokens=_NO_LIMIT if parts[0].kind == _STATIC else _max_tokens(parts[0].folder),
            normalized=parts[-1].kind == "Normalize",
        )


def vision(model: str, folder: Path) -> Vision | None:
    """Return how the model in a folder reads images; None for a text model."""
    with _config_errors(model, folder):
        config = _json(parts_of(folder, trusted=True)[0].folder / "config.json")
        if "vision_config" not in config:
            return None
        size = int(config["vision_config"].get("image_size", _ANY_IMAGE))
        # one token for each patch and one class token: ViT, arxiv.org/abs/2010.11929
        return Vision(size, (size // int(config["vision_config"].get("patch_size", 16))) ** 2 + 1)


@contextmanager
def _config_errors(model: str, folder: Path) -> Iterator[None]:
    # for example a missing key, a list in place of an object, letters in place of a number
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        SafetensorError,
    ) as error:
        raise ConfigurationError(
            f"model {model!r}: the files in {folder} do not describe a model"
            f" ({type(error).__name__}: {error}): download the model again"
        ) from error


class Part(NamedTuple):
    """A part of a sentence-transformers model: its class and its folder."""

    kind: str
    folder: Path


def parts_of(folder: Path, *, trusted: bool = False) -> list[Part]:
    """Return the parts of the model in a folder, in the order in which they run.

    A part is named by its class; without `trusted`, one of another package by its full path.
    """
    listed = _json(folder / "modules.json") or [{"type": f"{_OURS}Transformer", "path": ""}]
    return [
        Part(_kind(str(module["type"]), trusted=trusted), folder / module["path"])
        for module in listed
    ]


def is_static(folder: Path) -> bool:
    """Whether a model has no transformer: a text's vector is the mean of its tokens' vectors."""
    first, *others = (part.kind for part in parts_of(folder))
    return first == _STATIC and set(others) <= _MAY_FOLLOW[_STATIC]


def file_prompts(folder: Path) -> Prompts:
    """Return the prompts in a model's files that sentence-transformers uses for search.

    Raises ConfigurationError for a file that does not hold prompts.
    """
    with _config_errors(folder.name, folder):
        named = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
        return Prompts(query=named.get("query") or "", document=named.get("document") or "")


def _checked_parts(model: str, folder: Path, *, trusted: bool) -> list[Part]:
    found = parts_of(folder, trusted=trusted)
    kinds = [part.kind for part in found]
    if not trusted and (kinds[0] not in _MAY_FOLLOW or set(kinds[1:]) - _MAY_FOLLOW[kinds[0]]):
        raise ConfigurationError(
            f"model {model!r} in {folder} has the parts {', '.join(kinds)}; supported is a"
            f" Transformer followed by any of {', '.join(sorted(_AFTER_TRANSFORMER))}, or a"
            " StaticEmbedding followed by Normalize: to run the model's own code, name the model"
            " in EMBEDDING_TRUST_REMOTE_CODE"
        )
    return found


def _kind(path: str, *, trusted: bool) -> str:
    # a class of another package keeps its full path, since its name may be any
    return path.rpartition(".")[2] if trusted or path.startswith(_OURS) else path


def _weights(model: str, parts: Sequence[Part]) -> list[Path]:
    return [
        path
        for kind, folder in parts
        if kind in _WITH_WEIGHTS
        for path in weight_files(model, folder, sharded=kind in _TRANSFORMERS)
    ]


def _encoding_config(folder: Path, parts: Sequence[Part], *, own_prompts: bool) -> dict[str, Any]:
    """Return the settings beside the weights that decide the vectors: prompts, pooling and case.

    Settings that have the usual value are left out.
    """
    settings = _json(folder / "config_sentence_transformers.json")
    prompts = {name: text for name, text in (settings.get("prompts") or {}).items() if text}
    default = settings.get("default_prompt_name")
    pooling = [
        pooling_modes(_json(part.folder / "config.json"))
        for part in parts
        if part.kind == "Pooling"
    ]
    lower = _json(parts[0].folder / "sentence_bert_config.json").get("do_lower_case")
    config = {
        "prompts": [prompts, default] if prompts and own_prompts else None,
        "pooling": pooling if pooling not in ([], [["mean"]]) else None,
        "lower_case": lower or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def _dimension(model: str, parts: Sequence[Part]) -> int:
    for kind, folder in reversed(parts):
        config = _json(folder / "config.json")
        if kind == "Dense":
            return int(config["out_features"])
        if kind == "Pooling":
            # word_embedding_dimension is the older name
            size = config.get("embedding_dimension") or config["word_embedding_dimension"]
            return int(size) * len(pooling_modes(config))
        if kind == _STATIC:
            return _static_dimension(folder / _WEIGHTS)
        if kind in _TRANSFORMERS:
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


# the vectors of tokens in the weights of a static model: by sentence-transformers, by model2vec
TOKEN_VECTORS = ("embedding.weight", "embeddings")


def _static_dimension(weights: Path) -> int:
    with safe_open(weights, framework="np") as file:
        (name,) = set(TOKEN_VECTORS) & set(file.keys())
        return int(file.get_slice(name).get_shape()[1])


def pooling_modes(pooling: Mapping[str, Any]) -> list[str]:
    """Return the pooling modes, sorted; the vectors of several modes are concatenated."""
    modes = pooling.get("pooling_mode", "mean")
    if not isinstance(modes, str):
        return sorted(modes)
    # the older form has one boolean for each mode
    prefix = "pooling_mode_"
    former = [
        key.removeprefix(prefix)
        for key, enabled in pooling.items()
        if key.startswith(prefix) and enabled is True
    ]
    return sorted("mean" if mode == "mean_tokens" else mode for mode in former) or [modes]


def pooling_of(folder: Path) -> str:
    """Return how the vectors of tokens become one: the modes of pooling, or `static`."""
    if is_static(folder):
        return "static"
    pooling = [part.folder for part in parts_of(folder, trusted=True) if part.kind == "Pooling"]
    return "+".join(pooling_modes(_json(pooling[0] / "config.json"))) if pooling else "mean"


# families whose position embeddings are a table, a longer text being an error. The positions of the
# second group begin at pad_token_id + 1 (create_position_ids_from_input_ids in transformers)
_FROM_ZERO = {"albert", "bert", "distilbert", "electra"}
_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def first_position(config: Mapping[str, Any]) -> int:
    """Return the row of a transformer's table of positions at which texts begin."""
    if config.get("model_type") not in _AFTER_PADDING:
        return 0
    padding = config.get("pad_token_id")
    return int(1 if padding is None else padding) + 1


def _max_tokens(transformer: Path) -> int:
    """Return the most tokens that the model reads: by the rules of sentence-transformers, and no
    more than the model has positions."""
    config = _json(transformer / "config.json")
    # the older name is GPT-2's
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    family = config.get("model_type")
    if positions:
        positions -= first_position(config)
    declared = _json(transformer / "sentence_bert_config.json").get("max_seq_length")
    if declared and family not in _AFTER_PADDING | _FROM_ZERO:
        return int(declared)
    limits = [
        declared or _json(transformer / "tokenizer_config.json").get("model_max_length"),
        positions,
        config.get("text_config", {}).get("max_position_embeddings"),
    ]
    # a tokenizer without a limit has 10^30, xlnet has -1
    return min([int(limit) for limit in limits if limit and limit > 0] + [_NO_LIMIT])


def _json(path: Path) -> Any:
    # a missing optional file counts as empty
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from None


_WEIGHTS = "model.safetensors"


def weight_files(model: str, folder: Path, *, sharded: bool) -> list[Path]:
    """Return the weight files in the folder of a model's part; only a transformer's are `sharded`.

    Raises ConfigurationError where they are missing: the loader would fall back to pickled weights.
    """
    index = folder / f"{_WEIGHTS}.index.json"
    names = {_WEIGHTS}
    if sharded and not (folder / _WEIGHTS).is_file() and index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise ConfigurationError(
            f"model {model!r} has no safetensors weights in {folder}"
            f" ({', '.join(missing) or index.name} is missing): pickled weights are not loaded,"
            " since unpickling runs code"
        )
    return sorted(folder / name for name in names)


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
