"""Reads the files of a sentence-transformers model: its parts, prompts, pooling and positions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from embeddings_pipeline.entities.entity import Prompts
from embeddings_pipeline.errors import ConfigurationError

# CLIPModel is the class name in the first image models
TRANSFORMERS = {"Transformer", "CLIPModel"}
STATIC = "StaticEmbedding"
AFTER_TRANSFORMER = {"Pooling", "Dense", "LayerNorm", "Dropout", "Normalize"}
MAY_FOLLOW = dict.fromkeys(TRANSFORMERS, AFTER_TRANSFORMER) | {STATIC: {"Normalize"}}
_OURS = "sentence_transformers."


class Part(NamedTuple):
    """A part of a sentence-transformers model: its class and its folder."""

    kind: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json; empty where it has none."""
        config: dict[str, Any] = read_json(self.folder / "config.json")
        return config


def parts_of(folder: Path, *, trusted: bool = False) -> list[Part]:
    """Return the parts of the model in a folder, in the order in which they run.

    A part is named by its class; without `trusted`, one of another package by its full path.
    """
    listed = read_json(folder / "modules.json") or [{"type": f"{_OURS}Transformer", "path": ""}]
    return [
        Part(_kind(str(module["type"]), trusted=trusted), folder / module["path"])
        for module in listed
    ]


def _kind(path: str, *, trusted: bool) -> str:
    # a class of another package keeps its full path, since its name may be any
    return path.rpartition(".")[2] if trusted or path.startswith(_OURS) else path


def is_static(folder: Path) -> bool:
    """Whether a model has no transformer: a text's vector is the mean of its tokens' vectors."""
    first, *others = (part.kind for part in parts_of(folder))
    return first == STATIC and set(others) <= MAY_FOLLOW[STATIC]


def file_prompts(folder: Path) -> Prompts:
    """Return the prompts in a model's files that sentence-transformers uses for search.

    Raises ConfigurationError for a file that does not hold prompts.
    """
    with config_errors(folder.name, folder):
        named = model_settings(folder).get("prompts") or {}
        return Prompts(query=named.get("query") or "", document=named.get("document") or "")


def model_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a whole model: prompts, the kind of model, `truncate_dim`."""
    settings: dict[str, Any] = read_json(folder / "config_sentence_transformers.json")
    return settings


# names of the file in the order in which sentence-transformers looks for them; the first releases
# named it by family
_SETTINGS_OF = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# settings under which a transformer returns the last hidden state of each token
_USUAL: Mapping[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def transformer_settings(transformer: Path) -> dict[str, Any]:
    """Return the settings with which sentence-transformers runs the transformer in a folder,
    without those that have the usual value."""
    for family in _SETTINGS_OF:
        if settings := read_json(transformer / f"sentence_{family}_config.json"):
            return {
                key: value
                for key, value in settings.items()
                if value and value != _USUAL.get(key, None)
            }
    return {}


def normalizes_vectors(part: Part) -> bool:
    """Whether a part gives the vectors of texts length 1; it may do so to those of tokens."""
    named = part.config.get("module_input_name", "sentence_embedding")
    return part.kind == "Normalize" and bool(named == "sentence_embedding")


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
    first, *others = parts_of(folder, trusted=True)
    for part in others:
        if part.kind == "Pooling":
            return "+".join(pooling_modes(part.config))
    # what sentence-transformers adds to a transformer alone
    architecture = (first.config.get("architectures") or [""])[0]
    causal = architecture.endswith("ForCausalLM") and first.config.get("is_causal", True)
    return "lasttoken" if causal else "mean"


# families whose position embeddings are a table, a longer text being an error. The positions of the
# second group begin at pad_token_id + 1 (create_position_ids_from_input_ids in transformers)
POSITIONS_FROM_ZERO = {"albert", "bert", "distilbert", "electra"}
POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def padding_id(config: Mapping[str, Any]) -> int | None:
    """Return the token id of padding, which is also its row of a transformer's table of positions,
    where texts begin in the next row. None where they begin in the first."""
    if config.get("model_type") not in POSITIONS_AFTER_PADDING:
        return None
    padding = config.get("pad_token_id")
    return 1 if padding is None else int(padding)


def read_json(path: Path) -> Any:
    """Return what a file says; a missing file counts as empty.

    Raises ConfigurationError for a file that is not JSON.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from None


@contextmanager
def config_errors(model: str, folder: Path) -> Iterator[None]:
    """Raise ConfigurationError where the files of a model do not have the form of such files: for
    example a missing key, a list in place of an object, letters in place of a number."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"model {model!r} in {folder} cannot be read: {error}") from error
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
