"""Which names are models of an OpenAI-compatible endpoint, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "openai:"

# of a name that is not known; where the provider takes less, it says so and texts are cut then
_ASSUMED_TOKENS = 8191


@dataclass(frozen=True)
class RemoteModel:
    """A model by the provider's name for it. A `dimension` of None has to be asked for."""

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
    """The remote model that a name means: a known one, or `openai:` and the provider's name for
    it. None for a local model."""
    name = model.removeprefix(PREFIX)
    if name in KNOWN:
        return KNOWN[name]
    return RemoteModel(name) if model.startswith(PREFIX) else None
