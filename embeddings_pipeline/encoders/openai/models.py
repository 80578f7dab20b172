"""The names of models at an OpenAI-compatible endpoint, and the known properties of each."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "openai:"

# limit of an unknown model; texts are cut further where the provider reports a lower limit
_ASSUMED_TOKENS = 8191


@dataclass(frozen=True)
class RemoteModel:
    """A model by the provider's name. A `dimension` of None is learnt by a request."""

    name: str
    dimension: int | None = None
    max_tokens: int = _ASSUMED_TOKENS
    shortens: bool = True
    normalized: bool = False


# dimensions and limits: https://platform.openai.com/docs/guides/embeddings, from memory
KNOWN = {
    model.name: model
    for model in (
        RemoteModel("text-embedding-3-small", 1536, 8191, normalized=True),
        RemoteModel("text-embedding-3-large", 3072, 8191, normalized=True),
        RemoteModel("text-embedding-ada-002", 1536, 8191, shortens=False, normalized=True),
    )
}


def remote_model(model: str) -> RemoteModel | None:
    """Return the remote model of a name: a known name, or `openai:` and the provider's name.

    Returns None for a local model.
    """
    name = model.removeprefix(PREFIX)
    if name in KNOWN:
        return KNOWN[name]
    return RemoteModel(name) if model.startswith(PREFIX) else None
