"""Lists the known models without loading any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embeddings_pipeline.encoders.local import download
from embeddings_pipeline.encoders.local.model_files import describe
from embeddings_pipeline.encoders.openai.endpoint import endpoint_of
from embeddings_pipeline.encoders.openai.models import KNOWN, RemoteModel, remote_model
from embeddings_pipeline.encoders.prices import usd_per_token
from embeddings_pipeline.errors import ConfigurationError
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings


@dataclass(frozen=True)
class KnownModel:
    """A model that an entity may declare. None marks a value that only the model itself can tell.

    `at_hand` says whether the model can be used without a download. `where` is its folder or host,
    or the reason why it cannot be used.
    """

    model: str
    provider: str
    dimension: int | None
    max_tokens: int | None
    usd_per_million_tokens: float | None
    at_hand: bool
    where: str


def known_models(settings: Settings, declared: Iterable[str]) -> list[KnownModel]:
    """Return the default model, the models that entities declare, and the documented models."""
    named = [DEFAULT_MODEL, *download.IMAGE_MODELS, *KNOWN]
    names = dict.fromkeys([settings.embedding_model, *declared, *named])
    return [_known(name, settings) for name in names]


def _known(name: str, settings: Settings) -> KnownModel:
    of_token = usd_per_token(name, settings.embedding_prices)
    price = None if of_token is None else of_token * 1_000_000
    remote = remote_model(name)
    return _remote(name, remote, settings, price) if remote else _local(name, settings, price)


def _remote(name: str, remote: RemoteModel, settings: Settings, price: float | None) -> KnownModel:
    try:
        where, at_hand = endpoint_of(settings).host, True
    except ConfigurationError as error:
        where, at_hand = str(error), False
    return KnownModel(name, "openai", remote.dimension, remote.max_tokens, price, at_hand, where)


def _local(name: str, settings: Settings, price: float | None) -> KnownModel:
    provider = "sentence-transformers"
    try:
        folder = download.find_local(name, settings)
        if folder is None:
            return KnownModel(name, provider, None, None, price, False, "only on the hub")
        found = describe(name, folder, None, trusted=settings.trusts(name))
    except ConfigurationError as error:
        return KnownModel(name, provider, None, None, price, False, str(error))
    return KnownModel(name, provider, found.dimension, found.max_tokens, price, True, str(folder))
